package pod

import (
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/sysctl"
	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// name is what a list of processes calls a holder; verb is the argument that makes this program one.
	name = "limpet-pod"
	verb = "hold-pod"
	// ordersFD and reportFD are where a holder reads what to do, and says that it is done, or why not.
	ordersFD = 0
	reportFD = 3
	settled  = "settled"
)

// MainIfAsked becomes a holder if this program was started as one, and then never returns. A program that uses Start calls it first
// in its main.
func MainIfAsked() {
	if len(os.Args) != 2 || os.Args[1] != verb {
		return
	}
	orders, report := os.NewFile(ordersFD, "orders"), os.NewFile(reportFD, "report")
	if err := settle(orders); err != nil {
		_, _ = report.WriteString(err.Error())
		os.Exit(1)
	}
	// From here on nobody in the pod can do anything to it but look.
	signal.Ignore()
	_, _ = report.WriteString(settled)
	report.Close()
	for {
		_ = unix.Pause()
	}
}

// settle makes the namespaces what the orders say, and leaves the guest's files behind.
func settle(orders *os.File) error {
	text, err := io.ReadAll(orders)
	if err != nil {
		return fmt.Errorf("read the holder's orders: %w", err)
	}
	orders.Close()
	message, err := protocol.HostMessages.Decode(text)
	if err != nil {
		return fmt.Errorf("read the holder's orders: %w", err)
	}
	m, ok := message.(protocol.Pod)
	if !ok {
		return fmt.Errorf("the holder's orders are of type %T", message)
	}
	if err := os.WriteFile("/proc/self/comm", []byte(name), 0); err != nil { // who looks for PID 1 sees what it is
		return fmt.Errorf("name the holder: %w", err)
	}
	// Root of a container that shares the PID namespace may not look into it, except by CAP_SYS_PTRACE.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid tracing: %w", err)
	}
	if m.Hostname != "" {
		if err := unix.Sethostname([]byte(m.Hostname)); err != nil {
			return fmt.Errorf("set the host name %q: %w", m.Hostname, err)
		}
	}
	for _, wanted := range m.Sysctls {
		if err := set(sysctl.Name(wanted.Name), wanted.Value); err != nil {
			return fmt.Errorf("sysctl %s: %w", wanted.Name, err)
		}
	}
	if err := leaveRoot(); err != nil {
		return fmt.Errorf("leave the guest's root: %w", err)
	}
	return nil
}

// set sets a parameter of the IPC or UTS namespace. The file of the domain name is for the guest's root only.
func set(parameter, value string) error {
	if parameter == domainName {
		return unix.Setdomainname([]byte(value))
	}
	return os.WriteFile(sysctl.File(parameter), []byte(value), 0)
}

// leaveRoot makes an empty directory that cannot be written to the only file that the process's mount namespace has.
func leaveRoot() error {
	// The pod's own copy of the guest's mounts: whatever is done to one is not done to the other.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	const place = "/tmp" // any directory
	if err := unix.Mount("tmpfs", place, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0555"); err != nil {
		return fmt.Errorf("mount a new one: %w", err)
	}
	if err := unix.Chdir(place); err != nil {
		return err
	}
	// With one directory for both, the old root is put over the new one, and taken away from there. See pivot_root(2).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("make it read-only: %w", err)
	}
	return unix.Chdir("/")
}
