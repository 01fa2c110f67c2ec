package pod

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/sysctl"
	"github.com/limpet-run/limpet/guest/protocol"
)

// plan is a checked message.
type plan struct {
	inside     protocol.Pod // what the holder does itself
	uids, gids []syscall.SysProcIDMap
}

// maxText is the longest name or value of a parameter, in bytes: four numbers, at most, for those of the namespaces.
const maxText = 256

// newPlan checks a message: ErrInvalidArgument.
func newPlan(m protocol.Pod) (*plan, error) {
	switch {
	case len(m.Hostname) > protocol.MaxHostname:
		return nil, invalid("host name of %d bytes: want at most %d", len(m.Hostname), protocol.MaxHostname)
	case len(m.Sysctls) > protocol.MaxPodSysctls:
		return nil, invalid("%d sysctls: want at most %d", len(m.Sysctls), protocol.MaxPodSysctls)
	case (len(m.UIDMappings) > 0) != (len(m.GIDMappings) > 0):
		return nil, invalid("users and groups are to be mapped both or none")
	}
	for _, wanted := range m.Sysctls {
		if len(wanted.Name) > maxText || len(wanted.Value) > maxText {
			return nil, invalid("sysctl %.*q: name or value has more than %d bytes", maxText, wanted.Name, maxText)
		}
		if name := sysctl.Name(wanted.Name); name != domainName && !isIPC(name) {
			return nil, invalid("sysctl %q is not of a namespace that a pod has for itself (kernel.sem, kernel.msg*, kernel.shm*, fs.mqueue.*, "+
				"kernel.domainname, net.*)", wanted.Name)
		}
	}
	p := &plan{inside: protocol.Pod{Hostname: m.Hostname, Sysctls: m.Sysctls}}
	var err error
	if p.uids, err = mappings(m.UIDMappings); err != nil {
		return nil, fmt.Errorf("users: %w", err)
	}
	if p.gids, err = mappings(m.GIDMappings); err != nil {
		return nil, fmt.Errorf("groups: %w", err)
	}
	return p, nil
}

// domainName is the one parameter of the UTS namespace beside the host name.
const domainName = "kernel/domainname"

// isIPC tells whether a parameter, its name with slashes, is one of the IPC namespace. See ipc_namespaces(7).
func isIPC(name string) bool {
	names := []string{
		"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall", "kernel/shmmax", "kernel/shmmni",
		"kernel/shm_rmid_forced",
	}
	return slices.Contains(names, name) || strings.HasPrefix(name, "fs/mqueue/")
}

func mappings(wanted []protocol.IDMapping) ([]syscall.SysProcIDMap, error) {
	if len(wanted) > protocol.MaxIDMappings {
		return nil, invalid("%d mappings: want at most %d", len(wanted), protocol.MaxIDMappings)
	}
	var made []syscall.SysProcIDMap
	root := false
	for _, m := range wanted {
		root = root || m.ContainerID == 0 && m.Size > 0
		made = append(made, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
	}
	if len(wanted) > 0 && !root {
		return nil, invalid("nobody is mapped to id 0: the pod would have no root")
	}
	return made, nil
}

func invalid(format string, arguments ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, arguments...), errdefs.ErrInvalidArgument)
}

// orders makes a file of what the holder is to do itself. The caller closes it.
func (p *plan) orders() (*os.File, error) {
	text, err := protocol.HostMessages.Encode(p.inside)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("orders", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("write the holder's orders: %w", err)
	}
	file := os.NewFile(uintptr(fd), "orders")
	if _, err := file.WriteAt(text, 0); err != nil { // leaves it at its beginning
		file.Close()
		return nil, fmt.Errorf("write the holder's orders: %w", err)
	}
	return file, nil
}
