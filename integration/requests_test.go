package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/limpet-run/limpet/integration/harness"
	limpet "github.com/limpet-run/limpet/runtime"
)

// TestMachineRequests drives every machine request with a client that shares nothing with limpet, machine.py, by the sandbox's door and by
// the guest's port. The last request shuts the machine down: its container ends in order.
func TestMachineRequests(t *testing.T) {
	s := limpetOnly(t)
	c := s.start(nil, "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done")
	sandbox, err := limpet.FindSandbox(daemon.StateDir(), daemon.Namespace, c.id)
	s.must(err)
	args := []string{"machine.py", sandbox.Door("agent.sock"), c.id, daemon.Build.Path("busybox.tar")}
	if vsock := filepath.Join(sandbox.Dir, "vsock", "vsock"); isSocket(vsock) { // else the kernel's vsock leads there
		args = append(args, vsock)
	}
	result := harness.Run(exec.CommandContext(s.ctx, "python3", args...))
	t.Log(result.Stdout)
	s.must(result.Err())
	if status := c.wait(""); status != 3 {
		t.Errorf("exit status %d of a container whose machine was shut down, want 3", status)
	}
	c.deleteTask()
}

func isSocket(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&os.ModeSocket != 0
}
