package requests

import (
	"context"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/agent/container"
	"github.com/limpet-run/limpet/guest/protocol"
)

// machineEnv is the environment of commands in the machine itself, before what a request adds: the image's programs, then the tools that
// the host brings.
var machineEnv = []protocol.Pair{
	{Name: "PATH", Value: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + protocol.ToolsDir},
	{Name: "HOME", Value: "/root"},
}

// vmExec runs a command in the machine itself.
func (c *conn) vmExec(ctx context.Context, r protocol.VMExecRequest) (protocol.AgentResponse, error) {
	p, err := newCommand(r.Interactive, r.TTY, r.Background, r.TimeoutMS)
	if err != nil {
		return nil, err
	}
	process, err := machineProcess(r)
	if err != nil {
		return nil, err
	}
	p.kind, p.code = "vm-exec", protocol.CodeExecFailed
	p.start = func(ctx context.Context, k *job) (*container.Process, error) {
		if err := c.server.Tools(ctx); err != nil {
			return nil, failed(protocol.CodeMountFailed, err)
		}
		return k.containers.Command(ctx, container.Command{ID: k.name, RequestID: k.id, Process: process, Streams: &k.streams,
			Fallback: c.server.Busybox})
	}
	p.started = func(_ *job, started *container.Process) string { return strconv.Itoa(started.Pid()) }
	return c.runCommand(ctx, p)
}

// machineProcess is the process that a request asks for.
func machineProcess(r protocol.VMExecRequest) (*specs.Process, error) {
	env, err := environment(machineEnv, r.Env, r.TTY)
	if err != nil {
		return nil, err
	}
	process := &specs.Process{Args: r.Command, Env: env, Cwd: "/root", Terminal: r.TTY}
	if r.Workdir != nil {
		process.Cwd = *r.Workdir
	}
	return process, nil
}

// environment is a base with what a request adds, which comes instead of what has the same name.
func environment(base, added []protocol.Pair, tty bool) ([]string, error) {
	if tty {
		base = append(base[:len(base):len(base)], protocol.Pair{Name: "TERM", Value: "xterm"})
	}
	var env []string
	places := map[string]int{}
	for _, pair := range append(base[:len(base):len(base)], added...) {
		if pair.Name == "" || strings.ContainsAny(pair.Name, "=\x00") || strings.ContainsRune(pair.Value, 0) {
			return nil, invalid("environment variable %.64q: want a name without =, and no zero byte", pair.Name)
		}
		line := pair.Name + "=" + pair.Value
		if place, ok := places[pair.Name]; ok {
			env[place] = line
			continue
		}
		places[pair.Name] = len(env)
		env = append(env, line)
	}
	return env, nil
}
