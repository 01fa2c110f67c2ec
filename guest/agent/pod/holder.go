package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/reaper"
	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// settleTimeout is how long a holder may take to settle: an emulated guest takes a fifth of a second.
	settleTimeout = 30 * time.Second
	// maxReport bounds what is read of a holder's reason for not settling.
	maxReport = 4096
)

// Holder is the process that keeps a pod's namespaces.
type Holder struct {
	child *reaper.Child
	users bool // there is a user namespace
}

// files are the names that the namespaces that can be shared have in a process's directory ns of /proc. See namespaces(7).
var files = map[specs.LinuxNamespaceType]string{
	specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts", specs.PIDNamespace: "pid", specs.UserNamespace: "user",
}

// NamespacePath is the path of a process's namespace. A type that containers cannot share is an ErrInvalidArgument.
func NamespacePath(pid int, kind specs.LinuxNamespaceType) (string, error) {
	file, ok := files[kind]
	if !ok {
		return "", fmt.Errorf("a %s namespace cannot be shared: %w", kind, errdefs.ErrInvalidArgument)
	}
	return fmt.Sprintf("/proc/%d/ns/%s", pid, file), nil
}

// Start makes a pod's namespaces. What the message says wrongly is an ErrInvalidArgument; on an error nothing is left.
func Start(ctx context.Context, r *reaper.Reaper, m protocol.Pod) (*Holder, error) {
	plan, err := newPlan(m)
	if err != nil {
		return nil, fmt.Errorf("make the pod's namespaces: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	h, err := start(ctx, r, plan)
	if err != nil {
		return nil, fmt.Errorf("make the pod's namespaces: %w", err)
	}
	return h, nil
}

func start(ctx context.Context, r *reaper.Reaper, p *plan) (*Holder, error) {
	orders, err := p.orders()
	if err != nil {
		return nil, err
	}
	defer orders.Close()
	report, reportWriter, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer report.Close()
	defer context.AfterFunc(ctx, func() { _ = report.SetReadDeadline(time.Now()) })()

	hold := r.Hold()
	defer hold.Release()
	process, err := os.StartProcess("/proc/self/exe", []string{name, verb}, &os.ProcAttr{
		Dir: "/", Env: []string{"GOMAXPROCS=1"}, Files: []*os.File{orders, nil, nil, reportWriter}, Sys: p.attributes(),
	})
	reportWriter.Close()
	if err != nil {
		return nil, err
	}
	h := &Holder{child: hold.Claim(process.Pid), users: len(p.uids) > 0}
	_ = process.Release() // the reaper waits for it
	said, err := io.ReadAll(io.LimitReader(report, maxReport))
	switch {
	case err == nil && string(said) == settled:
		return h, nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case err == nil && len(said) == 0:
		err = errors.New("their holder ended at once")
	case err == nil:
		err = errors.New(string(said))
	}
	_ = h.child.Signal(unix.SIGKILL)
	<-h.child.Done()
	return nil, err
}

// attributes are those of the holder's process.
func (p *plan) attributes() *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{
		Setsid: true, Cloneflags: unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWPID | unix.CLONE_NEWNS,
	}
	if len(p.uids) > 0 {
		attributes.Cloneflags |= unix.CLONE_NEWUSER
		attributes.UidMappings, attributes.GidMappings, attributes.GidMappingsEnableSetgroups = p.uids, p.gids, true
		attributes.Credential = &syscall.Credential{} // root of the namespace
	}
	return attributes
}

// Namespace is the path of one of the pod's namespaces. One that the pod does not have is an ErrInvalidArgument; when the holder has
// ended, all are an ErrFailedPrecondition.
func (h *Holder) Namespace(kind specs.LinuxNamespaceType) (string, error) {
	if kind == specs.UserNamespace && !h.users {
		return "", fmt.Errorf("the pod has no user namespace of its own: %w", errdefs.ErrInvalidArgument)
	}
	select {
	case <-h.child.Done():
		return "", fmt.Errorf("the pod's %s namespace: the process that held it was killed: %w", kind, errdefs.ErrFailedPrecondition)
	default:
		return NamespacePath(h.child.Pid(), kind)
	}
}

// Done is closed when the holder has ended.
func (h *Holder) Done() <-chan struct{} { return h.child.Done() }
