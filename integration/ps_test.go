package integration

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/integration/harness"
	limpet "github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/standalone"
)

// limpetCmd is a command of limpet with the run's configuration.
func (s *scope) limpetCmd(command string, args ...string) *exec.Cmd {
	return s.limpetCmdWith(daemon.ConfigPath(), command, args...)
}

// limpetCmdWith is a command of limpet with that configuration.
func (s *scope) limpetCmdWith(config, command string, args ...string) *exec.Cmd {
	words := []string{command}
	switch command {
	case "agent", "template", "pool": // the flag is the command's below it
		words, args = append(words, args[0]), args[1:]
	}
	words = append(words, "--config", config)
	cmd := exec.CommandContext(s.ctx, daemon.Build.Path("bin/limpet"), append(words, args...)...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// limpet runs a command of limpet.
func (s *scope) limpet(command string, args ...string) harness.Result {
	return s.limpetWith(daemon.ConfigPath(), command, args...)
}

// limpetWith runs a command of limpet with that configuration.
func (s *scope) limpetWith(config, command string, args ...string) harness.Result {
	return harness.Run(s.limpetCmdWith(config, command, args...))
}

// limpetJSON runs a command of limpet that is to write JSON.
func (s *scope) limpetJSON(into any, command string, args ...string) {
	s.Helper()
	s.limpetJSONWith(daemon.ConfigPath(), into, command, args...)
}

// limpetJSONWith runs a command of limpet with that configuration that is to write JSON.
func (s *scope) limpetJSONWith(config string, into any, command string, args ...string) {
	s.Helper()
	result := s.limpetWith(config, command, args...)
	s.must(result.Err())
	if err := json.Unmarshal([]byte(result.Stdout), into); err != nil {
		s.Fatalf("%v: %s", err, result.Stdout)
	}
}

// wantRow wants a row of a table that has these cells one after the other.
func (s *scope) wantRow(table string, cells ...string) {
	s.Helper()
	want := strings.Join(cells, " ")
	for line := range strings.Lines(table) {
		if strings.Contains(strings.Join(strings.Fields(line), " "), want) {
			return
		}
	}
	s.Errorf("no line has %q:\n%s", want, table)
}

// TestPs lists a sandbox and its containers, as they are.
func TestPs(t *testing.T) {
	s := limpetOnly(t)
	c := s.sleeper()
	second := c.joined()
	table := func() string {
		t.Helper()
		result := s.limpet("ps")
		s.must(result.Err())
		return result.Stdout
	}
	text := table()
	s.wantRow(text, "NAMESPACE SANDBOX CONTAINER STATE PID VCPUS MEMORY AGE NAME IMAGE")
	s.wantRow(text, daemon.Namespace, c.id, "- running")
	s.wantRow(text, daemon.Namespace, c.id, c.id, "running")
	s.wantRow(text, daemon.Namespace, c.id, second.id, "running")

	s.must(daemon.Ctr(s.ctx, "task", "pause", second.id).Err())
	s.wantRow(table(), second.id, "paused")
	s.must(daemon.Ctr(s.ctx, "task", "resume", second.id).Err())
	second.kill(unix.SIGKILL)
	second.wait("")
	s.wantRow(table(), second.id, "stopped (137) -")

	var list []limpet.SandboxInfo
	s.limpetJSON(&list, "ps", "--json", "--namespace", daemon.Namespace)
	if len(list) != 1 || len(list[0].Containers) != 2 || list[0].Containers[1].Exit.Code != 128+uint32(unix.SIGKILL) {
		t.Fatalf("got %+v", list)
	}
	var info limpet.SandboxInfo
	s.limpetJSON(&info, "inspect", second.id)
	holder, err := shim()
	s.must(err)
	machine, err := qemu()
	s.must(err)
	if info.ID != c.id || info.State != limpet.SandboxRunning || info.Pod || info.Holder.PID != holder.PID || len(info.Machine) == 0 ||
		info.VCPUs < 1 || info.MemoryMiB < 128 || len(info.Doors) == 0 || len(info.Parts) < 3 {
		t.Errorf("got %+v", info)
	}
	pids := map[int]bool{}
	for _, process := range info.Machine {
		pids[process.PID] = true
	}
	if !pids[machine.PID] {
		t.Errorf("QEMU, process %d, is not one of %+v", machine.PID, info.Machine)
	}
	first := info.Containers[0]
	if first.ID != c.id || first.PID == 0 || strings.Join(first.Command, " ") != "sleep 1000000" || first.Bundle == "" {
		t.Errorf("the first container: %+v", first)
	}
	s.limpetJSON(&list, "ps", "--json", "--namespace", "another")
	if len(list) != 0 {
		t.Errorf("of another namespace: %+v", list)
	}
}

// TestPsPod has the names by which Kubernetes' users know pods and containers.
func TestPsPod(t *testing.T) {
	eachLimpetMode(t, func(s *podScope) {
		config := s.podConfig()
		p := s.run(config)
		id := p.sleeper("client")
		result := s.limpet("ps")
		s.must(result.Err())
		name := config.Metadata.Namespace + "/" + config.Metadata.Name
		s.wantRow(result.Stdout, harness.PodNamespace, p.ID[:13], "- running")
		s.wantRow(result.Stdout, name, "-")
		s.wantRow(result.Stdout, harness.PodNamespace, p.ID[:13], id[:13], "running")
		s.wantRow(result.Stdout, "client", harness.Image)
		var info limpet.SandboxInfo
		s.limpetJSON(&info, "inspect", "--namespace", harness.PodNamespace, p.ID[:13]+"/client")
		if info.ID != p.ID || !info.Pod || info.Name != name || len(info.Containers) != 1 || info.Containers[0].ID != id {
			s.Errorf("got %+v", info)
		}
	})
}

// TestPsRun lists a run in the background, while it goes on and once it has ended.
func TestPsRun(t *testing.T) {
	s := limpetOnly(t)
	s.detach("listed", s.rootfs(), "--", "sh", "-c", "trap 'exit 4' TERM; echo said; while :; do sleep 0.1; done")
	s.awaitOutput("listed", "said\n")
	result := s.limpet("ps", "--namespace", standalone.Namespace)
	s.must(result.Err())
	s.wantRow(result.Stdout, standalone.Namespace, "listed", "- running")
	s.must(s.limpet("stop", "listed").Err())
	result = s.limpet("ps")
	s.must(result.Err())
	s.wantRow(result.Stdout, standalone.Namespace, "listed", "- stopped")
	s.wantRow(result.Stdout, standalone.Namespace, "listed", "listed", "stopped (4)")
	logs := s.limpet("logs", "listed")
	s.must(logs.Err())
	if logs.Stdout != "said\n" {
		t.Errorf("logs: %q", logs.Stdout)
	}
	failed := s.limpet("exec", "listed", "true")
	if failed.Code != 125 {
		t.Errorf("exec: exit status %d", failed.Code)
	}
	wantError(t, failed.Stderr, "listed", "ended")
	s.must(s.limpet("rm", "listed").Err())
}
