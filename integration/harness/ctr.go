package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	Code           int // -1 if it was killed or could not be run

	args []string
	err  error
}

// Err returns an error with what the command wrote to standard error if it could not be run or did not exit with 0.
func (r Result) Err() error {
	switch {
	case r.err != nil:
		return fmt.Errorf("%s: %w: %s", strings.Join(r.args, " "), r.err, strings.TrimSpace(r.Stderr))
	case r.Code != 0:
		return fmt.Errorf("%s: exit code %d: %s", strings.Join(r.args, " "), r.Code, strings.TrimSpace(r.Stderr))
	}
	return nil
}

// CtrCommand prepares a `ctr` of this containerd. It is killed when ctx ends.
func (d *Daemon) CtrCommand(ctx context.Context, args ...string) *exec.Cmd {
	args = append([]string{"--address", d.Address(), "--namespace", d.Namespace}, args...)
	cmd := exec.CommandContext(ctx, d.Build.Path("bin/ctr"), args...)
	// Hints about this host, such as its cgroup version, have no place in the outputs of containers.
	cmd.Env = append(os.Environ(), "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1")
	// What reads the command's pipes ends this long after the command, even if something else still holds them.
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Ctr runs `ctr` without input.
func (d *Daemon) Ctr(ctx context.Context, args ...string) Result {
	return Run(d.CtrCommand(ctx, args...))
}

// Run runs a command and keeps what it writes to the outputs that are not set.
func Run(cmd *exec.Cmd) Result {
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &stderr
	}
	err := cmd.Run()
	result := Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: -1, args: cmd.Args}
	if cmd.ProcessState != nil {
		result.Code = cmd.ProcessState.ExitCode()
	}
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || result.Code < 0 {
		result.err = err
	}
	return result
}

// Spec is a container to be made by `ctr`.
type Spec struct {
	Runtime string
	ID      string
	Config  string   // the configuration file for limpet; the run's own if empty
	Flags   []string // further flags of ctr
	Command []string
}

// Args returns the arguments of ctr that make the container, for the verb "run" or "container create".
func (d *Daemon) Args(verb string, spec Spec) []string {
	args := append(strings.Fields(verb), "--runtime", spec.Runtime)
	if spec.Runtime == Limpet {
		config := spec.Config
		if config == "" {
			config = d.ConfigPath()
		}
		args = append(args, "--runtime-config-path", config)
	}
	args = append(args, spec.Flags...)
	return append(append(args, Image, spec.ID), spec.Command...)
}
