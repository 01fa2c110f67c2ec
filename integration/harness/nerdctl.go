package harness

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// NerdctlCommand prepares a `nerdctl` of this containerd. It is killed when ctx ends.
func (d *Daemon) NerdctlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := d.Command(ctx, append([]string{
		d.Build.Path("bin/nerdctl"), "--address", d.Address(), "--namespace", d.Namespace, "--data-root", filepath.Join(d.Dir, "nerdctl"),
		"--cni-path", d.Build.Path("bin/cni"), "--cni-netconfpath", d.networks(), "--cgroup-manager", "cgroupfs",
	}, args...)...)
	cmd.Env = append(os.Environ(), "NERDCTL_TOML="+filepath.Join(d.Dir, "nerdctl.toml")) // not that of the host
	// What reads the command's pipes ends this long after the command, even if something else still holds them.
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Nerdctl runs `nerdctl` without input.
func (d *Daemon) Nerdctl(ctx context.Context, args ...string) Result {
	return Run(d.NerdctlCommand(ctx, args...))
}

// NerdctlArgs returns the arguments of nerdctl that run a container of a runtime.
func NerdctlArgs(runtime string, flags []string, command ...string) []string {
	args := []string{"run", "--runtime", runtime}
	if runtime == Runc { // the run's is built without libseccomp
		args = append(args, "--security-opt", "seccomp=unconfined")
	}
	return append(append(append(args, flags...), Image), command...)
}
