package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/integration/harness"
	"github.com/limpet-run/limpet/runtime"
)

// pingsInARow is how many pings are measured at once.
const pingsInARow = 1000

// requests measures machine requests by a sandbox's door, beside execs in a container of runc by containerd's API.
func (b *bench) requests() (_ []row, err error) {
	pair, err := b.pair()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.remove(pair)) }()
	exec, err := b.execSpec(pair[harness.Runc], "true")
	if err != nil {
		return nil, err
	}
	agent, err := b.knock(pair[harness.Limpet])
	if err != nil {
		return nil, err
	}
	defer agent.Close()
	image, err := b.pullInGuest(agent, pair[harness.Limpet])
	if err != nil {
		return nil, err
	}
	var pings series
	b.progress("pings")
	for range b.runs {
		rate, err := b.pingRate(agent)
		if err != nil {
			return nil, err
		}
		pings = append(pings, rate)
	}
	rows := []row{{Name: "pings of the agent, by the sandbox's door", Unit: "1/s", Limpet: pings}}
	for _, command := range []struct {
		what    string
		request protocol.AgentRequest
	}{
		{"captured vm_exec of true", protocol.VMExecRequest{Command: []string{"true"}}},
		{"captured run of true in an image", protocol.RunRequest{Image: image, Command: []string{"true"}}},
	} {
		limpet, runc, err := b.alternate(command.what, b.runs,
			func() (float64, error) { return b.complete(agent, command.request) },
			func() (float64, error) {
				began := time.Now()
				err := b.execByAPI(pair[harness.Runc], exec)
				return milliseconds(began), err
			})
		if err != nil {
			return nil, err
		}
		rows = append(rows, row{Name: command.what, Unit: "ms", Limpet: limpet, Reference: runc, ReferenceName: "runc exec"})
	}
	return rows, nil
}

// knock connects to the agent of a container's sandbox.
func (b *bench) knock(id string) (*client.Requests, error) {
	sandbox, err := runtime.FindSandbox(b.daemon.StateDir(), b.daemon.Namespace, id)
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("unix", sandbox.Door("agent.sock"))
	if err != nil {
		return nil, err
	}
	return client.NewRequests(conn, ""), nil
}

// pullInGuest gives the guest the tests' image and returns its reference.
func (b *bench) pullInGuest(agent *client.Requests, id string) (string, error) {
	archive, err := os.ReadFile(b.daemon.Build.Path("busybox.tar"))
	if err != nil {
		return "", err
	}
	const name = "/image.tar"
	path := fmt.Sprintf("%s/%s/rootfs%s", protocol.ContainersDir, id, name)
	if err := agent.Upload(b.ctx, path, 0o600, uint64(len(archive)), bytes.NewReader(archive)); err != nil {
		return "", err
	}
	image := fmt.Sprintf("oci-layout:%s/%s/rootfs%s", protocol.ShareDir, id, name)
	_, err = agent.Do(b.ctx, protocol.PullRequest{Image: image}, nil)
	return image, err
}

// pingRate is how many pings are answered in a second, one after the other.
func (b *bench) pingRate(agent *client.Requests) (float64, error) {
	began := time.Now()
	for range pingsInARow {
		if _, err := agent.Do(b.ctx, protocol.PingRequest{}, nil); err != nil {
			return 0, err
		}
	}
	return pingsInARow / time.Since(began).Seconds(), nil
}

// complete is how long a captured command takes.
func (b *bench) complete(agent *client.Requests, request protocol.AgentRequest) (float64, error) {
	began := time.Now()
	result, err := agent.Complete(b.ctx, request)
	if err == nil && result.ExitCode != 0 {
		err = fmt.Errorf("true exits with %d: %s", result.ExitCode, result.Stderr)
	}
	return milliseconds(began), err
}
