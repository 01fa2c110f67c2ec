package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/integration/harness"
	limpet "github.com/limpet-run/limpet/runtime"
)

// poolService is a `limpet pool` of the run.
type poolService struct {
	*scope
	*harness.Pool
}

// pool starts a pool that ends with the test, and waits until it is full. What it keeps are clones, which a run without templates has none of.
func (s *scope) pool(size int) *poolService {
	s.Helper()
	skipWithoutTemplates(s.T)
	service, err := daemon.StartPool(size, func(line string) { s.Log("pool: ", line) })
	s.must(err)
	s.Cleanup(service.End)
	p := &poolService{s, service}
	p.full(size)
	return p
}

// full waits until so many spares wait.
func (p *poolService) full(size int) {
	p.Helper()
	p.must(p.AwaitSpare(p.ctx, size))
}

// spares are those that wait.
func (s *scope) spares() []limpet.SpareInfo {
	s.Helper()
	var spares []limpet.SpareInfo
	s.limpetJSON(&spares, "pool", "status", "--json")
	return spares
}

// different fails a test in which two of the values are equal.
func different(t *testing.T, what string, values []string) {
	t.Helper()
	seen := map[string]bool{}
	for _, value := range values {
		if value == "" || seen[value] {
			t.Errorf("%s: %q", what, values)
			return
		}
		seen[value] = true
	}
}

// TestPool runs containers one after the other and many at once, in machines that have waited and in those for which none had.
func TestPool(t *testing.T) {
	s := limpetOnly(t)
	p := s.pool(2)
	if list := s.limpet("ps"); strings.Contains(list.Stdout, "spare") {
		t.Errorf("limpet ps lists a spare:\n%s", list.Stdout)
	}
	before := daemon.TakenServers()
	var random, boots []string
	for range 3 {
		words := strings.Fields(s.output(nil, "sh", "-c",
			"head -c 16 /dev/urandom | md5sum | cut -c 1-32; cat /proc/sys/kernel/random/boot_id; date +%s"))
		random, boots = append(random, words[0]), append(boots, words[1])
		var at int64
		if _, err := fmt.Sscan(words[2], &at); err != nil || time.Since(time.Unix(at, 0)) > 2*time.Minute {
			t.Errorf("the guest's clock says %v, %v", words[2], err)
		}
		p.full(2)
	}
	different(t, "/dev/urandom", random)
	different(t, "boot ids", boots)
	if taken := daemon.TakenServers() - before; taken != 3 {
		t.Errorf("%d of 3 came from the pool", taken)
	}

	t.Run("at once", func(t *testing.T) {
		var group sync.WaitGroup
		for i := range 5 {
			spec := s.spec([]string{"--detach", "--null-io"}, "sleep", "1000000")
			group.Go(func() {
				if err := daemon.Ctr(s.ctx, daemon.Args("run", spec)...).Err(); err != nil {
					t.Errorf("container %d: %v", i, err)
				}
			})
		}
		group.Wait()
		if taken := daemon.TakenServers() - before; taken < 4 {
			t.Errorf("%d of 8 came from the pool", taken)
		}
		var cids, tokens []string
		processes, err := daemon.Processes()
		s.must(err)
		for _, process := range processes {
			if cid := regexp.MustCompile(`--guest-cid=(\d+)`).FindStringSubmatch(process.Cmdline); cid != nil {
				cids = append(cids, cid[1])
			}
		}
		for _, sandbox := range s.sandboxes() {
			token, err := os.ReadFile(filepath.Join(sandbox.Dir, "token"))
			s.must(err)
			tokens = append(tokens, string(token))
		}
		different(t, "CIDs", cids)
		different(t, "tokens", tokens)
		if len(tokens) != 5 {
			t.Errorf("%d sandboxes", len(tokens))
		}
	})
}

// sandboxes are those of the run.
func (s *scope) sandboxes() []limpet.SandboxInfo {
	s.Helper()
	var list []limpet.SandboxInfo
	s.limpetJSON(&list, "ps", "--json")
	return list
}

// TestPoolPod has a pod take a machine that waits: its network and its namespaces come later.
func TestPoolPod(t *testing.T) {
	eachLimpetMode(t, func(s *podScope) {
		t := s.T
		s.pool(1)
		before := daemon.TakenServers()
		p := s.run(s.podConfig())
		container := p.start(harness.ContainerConfig("app", "sh", "-c", "mkdir /www; echo ebb >/www/index.html; exec httpd -f -h /www"))
		if daemon.TakenServers() != before+1 {
			t.Error("the pod's server is not from the pool")
		}
		p.wantExec(p.Config.Hostname, container, "hostname")
		if address := s.execSync(container, "ip", "-o", "-4", "address", "show", "dev", "eth0"); !strings.Contains(address, "inet ") {
			t.Errorf("it has the address %q", address)
		}
		sandboxes := s.sandboxes()
		if len(sandboxes) != 1 || !sandboxes[0].Pod || sandboxes[0].Name == "" {
			t.Errorf("listed: %+v", sandboxes)
		}
		p.wantForward(80, "ebb\n")
	})
}

// TestPoolKilled kills the service: what was taken goes on, over a restart of containerd too, and what waits ends.
func TestPoolKilled(t *testing.T) {
	s := limpetOnly(t)
	p := s.pool(1)
	before := daemon.TakenServers()
	c := s.sleeper()
	if daemon.TakenServers() == before {
		t.Fatal("the container's server is not from the pool")
	}
	p.full(1)
	waiting := s.spares()
	s.must(p.Kill())
	p.End()
	for _, spare := range waiting {
		process := harness.Process{PID: spare.Holder.PID}
		s.must(process.WaitGone(s.ctx))
	}
	s.must(c.exec(nil, "true").Err())
	s.must(daemon.Kill())
	s.must(daemon.Restart(s.ctx))
	s.must(c.exec(nil, "true").Err())
	c.kill(unix.SIGKILL)
	if code := c.wait(""); code != 137 {
		t.Errorf("it ends with %d", code)
	}
	s.output(nil, "true")
	s.pool(1) // takes away what was left
}

// TestSpareKilled has the pool replace a spare that is killed, and what it leaves behind goes.
func TestSpareKilled(t *testing.T) {
	s := limpetOnly(t)
	p := s.pool(1)
	spares := s.spares()
	if len(spares) != 1 || !spares[0].Parked || spares[0].Memory == 0 {
		t.Fatalf("spares: %+v", spares)
	}
	s.must(unix.Kill(spares[0].Holder.PID, unix.SIGKILL))
	p.full(1)
	if again := s.spares(); len(again) != 1 || again[0].Holder.PID == spares[0].Holder.PID {
		t.Errorf("spares: %+v", again)
	}
	if list := s.sandboxes(); len(list) > 0 {
		t.Errorf("left: %+v", list)
	}
}

// TestPoolOfAnotherConfiguration is of no use to a container with a configuration of its own, nor to one whose annotations change the machine.
func TestPoolOfAnotherConfiguration(t *testing.T) {
	s := limpetOnly(t)
	s.pool(1)
	before := daemon.TakenServers()
	s.config = filepath.Join(s.TempDir(), "other.toml")
	s.must(daemon.WriteLimpetConfig(s.config, map[string]any{"vm": map[string]any{"vcpus": 1}}))
	if got := s.output(nil, "nproc"); got != "1\n" {
		t.Errorf("it has %s processors", got)
	}
	if daemon.TakenServers() != before || len(s.spares()) != 1 {
		t.Error("a spare was taken")
	}
	s.config = ""
	if got := s.output([]string{"--annotation", "io.limpet.vcpus=3"}, "nproc"); got != "3\n" {
		t.Errorf("it has %s processors", got)
	}
	if daemon.TakenServers() != before+1 {
		t.Error("the spare's process was not taken")
	}
}
