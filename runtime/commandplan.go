package runtime

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/console"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime/execsidecar"
)

// ContainerVariable names, in the environment of a command for a sandbox's door, the container that the command is for. The command itself
// does not get it.
const ContainerVariable = "LIMPET_CONTAINER"

// checkCommand refuses what cannot be had in a container. A session of its own every command has, and it ends with the sandbox in any case.
func checkCommand(command execsidecar.Command) error {
	switch {
	case command.Startup&execsidecar.JoinGroup != 0 && command.Group != 0:
		return fmt.Errorf("process group %d: a command in a sandbox has one of its own: %w", command.Group, errdefs.ErrNotImplemented)
	case command.Startup&execsidecar.IgnoreHangUp != 0:
		return fmt.Errorf("a start that ignores SIGHUP: run it with nohup(1): %w", errdefs.ErrNotImplemented)
	}
	return nil
}

// splitContainer takes the name of the container out of a command's environment.
func splitContainer(command execsidecar.Command) (rest execsidecar.Command, container string) {
	rest = command
	rest.Env = nil
	for _, variable := range command.Env {
		if variable.Name == ContainerVariable {
			container = variable.Value
		} else {
			rest.Env = append(rest.Env, variable)
		}
	}
	return rest, container
}

// commandSpec is a command as a process of a container whose init is given: with that one's environment, directory, user and rights where
// the command does not say otherwise.
func commandSpec(init *specs.Process, command execsidecar.Command) *specs.Process {
	spec := *init
	spec.Args = append([]string{command.Program}, command.Args...)
	spec.CommandLine = ""
	spec.Terminal, spec.ConsoleSize = false, nil
	spec.Env = slices.Clone(init.Env)
	for _, variable := range command.Env {
		spec.Env = setVariable(spec.Env, variable)
	}
	switch {
	case path.IsAbs(command.Dir):
		spec.Cwd = command.Dir
	case command.Dir != "":
		spec.Cwd = path.Join(init.Cwd, command.Dir)
	}
	if command.UID >= 0 {
		spec.User = specs.User{UID: uint32(command.UID), GID: init.User.GID, Umask: init.User.Umask}
	}
	if command.GID >= 0 {
		spec.User.GID = uint32(command.GID)
	}
	return &spec
}

// setVariable sets one variable of an environment.
func setVariable(env []string, variable execsidecar.Variable) []string {
	prefix := variable.Name + "="
	env = slices.DeleteFunc(env, func(old string) bool { return strings.HasPrefix(old, prefix) })
	return append(env, prefix+variable.Value)
}

// withTerminal is the process with a terminal of its own, of the size of the caller's.
func withTerminal(spec *specs.Process, caller console.Console) (*specs.Process, error) {
	size, err := caller.Size()
	if err != nil {
		return nil, fmt.Errorf("size of the caller's terminal: %w", err)
	}
	changed := *spec
	if size.Width > 0 && size.Height > 0 {
		changed.ConsoleSize = &specs.Box{Width: uint(size.Width), Height: uint(size.Height)}
	}
	if !slices.ContainsFunc(spec.Env, func(variable string) bool { return strings.HasPrefix(variable, "TERM=") }) {
		changed.Env = append(slices.Clone(spec.Env), "TERM=xterm") // what every terminal of today is like
	}
	return &changed, nil
}

// commandResult says how a process ended.
func commandResult(exit ExitStatus) execsidecar.Result {
	const signaled = 128
	if exit.Reason != "exited" && exit.Code > signaled && exit.Code < unknownExit {
		return execsidecar.Result{Kind: execsidecar.ResultSignaled, Value: int32(exit.Code - signaled)}
	}
	return execsidecar.Result{Kind: execsidecar.ResultExited, Value: int32(exit.Code)}
}

// errnoOf is the number that says best what kind of error it is. Of a program that cannot be started the guest says in words what the
// kernel has said.
func errnoOf(err error) unix.Errno {
	text := strings.ToLower(err.Error())
	switch {
	case errdefs.IsNotFound(err), strings.HasSuffix(text, unix.ENOENT.Error()):
		return unix.ENOENT
	case errdefs.IsPermissionDenied(err), strings.HasSuffix(text, unix.EACCES.Error()):
		return unix.EACCES
	case errdefs.IsInvalidArgument(err):
		return unix.EINVAL
	case errdefs.IsNotImplemented(err):
		return unix.EOPNOTSUPP
	case errdefs.IsFailedPrecondition(err), errdefs.IsUnavailable(err):
		return unix.EAGAIN
	default:
		return unix.EIO
	}
}
