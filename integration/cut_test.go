package integration

import (
	"bytes"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"

	"github.com/limpet-run/limpet/integration/harness"
)

const (
	// minCuts is how often TestLinkCut cuts the link, at least, and minLoads how often each kind of work is done meanwhile.
	minCuts, minLoads = 200, 3
	// maxCutPause is the longest time between two cuts; the shortest is none. A session is back after a tenth of a second or two.
	maxCutPause = 400 * time.Millisecond
)

// cutter makes a container whose sandbox's link to its guest can be cut.
func (s *scope) cutter() (container, *harness.Cutter) {
	s.Helper()
	proxy := filepath.Join(s.TempDir(), "vsock-proxy")
	s.must(harness.WriteVsockProxy(proxy, daemon.Build.Path("bin/vhost-device-vsock")))
	s.configure(map[string]any{"vsock": map[string]any{"backend": "daemon", "daemon": proxy}})
	c := s.sleeper()
	cutter, err := harness.NewCutter(c.stateDir())
	s.must(err)
	s.Cleanup(func() { cutter.Close() })
	return c, cutter
}

// linkLoad is one kind of work that goes on while the link is cut.
type linkLoad struct {
	name string
	args func(id string) []string // of ctr
	in   []byte
	want harness.Result
}

// TestLinkCut cuts everything between the shim and the guest 200 times at random moments, sessions and streams, while processes and
// containers start, read, write and end. No exit, result or byte is lost or doubled.
func TestLinkCut(t *testing.T) {
	s := limpetOnly(t)
	recorder := s.record()
	c, cutter := s.cutter()

	input := make([]byte, 300<<10)
	_, _ = rand.Read(input)
	exec := func(command ...string) func(string) []string {
		return func(id string) []string { return append([]string{"task", "exec", "--exec-id", id, c.id}, command...) }
	}
	pod := c.pod()
	loads := []linkLoad{
		{"exit", exec("sh", "-c", "echo out; echo err >&2; exit 41"), nil, harness.Result{Code: 41, Stdout: "out\n", Stderr: "err\n"}},
		{"output", exec("sh", "-c", "seq 200000; seq 1000 >&2"), nil, harness.Result{Stdout: numbers(200000), Stderr: numbers(1000)}},
		{"slow", exec("sh", "-c", "for i in $(seq 100); do echo $i; usleep 30000; done; exit 3"), nil,
			harness.Result{Code: 3, Stdout: numbers(100)}},
		{"input", exec("cat"), input, harness.Result{Stdout: string(input)}},
		{"container", func(id string) []string {
			spec := harness.Spec{
				Runtime: runtime, ID: id, Config: s.config, Flags: append([]string{"--rm"}, pod...),
				Command: []string{"sh", "-c", "echo new; exit 5"},
			}
			return daemon.Args("run", spec)
		}, nil, harness.Result{Code: 5, Stdout: "new\n"}},
	}
	var done atomic.Bool
	var workers sync.WaitGroup
	counts := make([]atomic.Int64, len(loads))
	for i, load := range loads {
		workers.Go(func() {
			for !done.Load() && s.ctx.Err() == nil {
				s.carry(load, fmt.Sprintf("cut-%s-%d", load.name, counts[i].Load()))
				counts[i].Add(1)
			}
		})
	}
	enough := func() bool {
		for i := range counts {
			if counts[i].Load() < minLoads {
				return false
			}
		}
		return true
	}

	cuts, connections := 0, 0
	for ; (cuts < minCuts || !enough()) && s.ctx.Err() == nil; cuts++ {
		time.Sleep(mathrand.N(maxCutPause)) // at a random moment
		cut, err := cutter.Cut()
		if err != nil {
			t.Errorf("cut %d: %v", cuts, err)
			break
		}
		connections += cut
	}
	done.Store(true)
	workers.Wait()
	exits, outputs, slow, inputs, containers := counts[0].Load(), counts[1].Load(), counts[2].Load(), counts[3].Load(), counts[4].Load()
	t.Logf("%d cuts of %d connections; %d exits, %d outputs, %d slow ones, %d inputs, %d containers",
		cuts, connections, exits, outputs, slow, inputs, containers)
	if connections < cuts {
		t.Errorf("%d cuts met only %d connections", cuts, connections)
	}
	s.wantOneExitEach(recorder, c, int(exits+outputs+slow+inputs))
}

// carry does the work once, and looks whether it comes to what it must.
func (s *scope) carry(load linkLoad, id string) {
	cmd := daemon.CtrCommand(s.ctx, load.args(id)...)
	if load.in != nil {
		cmd.Stdin = bytes.NewReader(load.in)
	}
	got := harness.Run(cmd)
	if got.Code != load.want.Code || got.Stdout != load.want.Stdout || got.Stderr != load.want.Stderr {
		s.Errorf("%s: exit code %d, want %d; %d bytes of output, want %d; %d of errors, want %d: %.200q", id,
			got.Code, load.want.Code, len(got.Stdout), len(load.want.Stdout), len(got.Stderr), len(load.want.Stderr), got.Stderr)
	}
}

// wantOneExitEach looks that each exec of the container had one exit.
func (s *scope) wantOneExitEach(recorder *harness.Recorder, c container, execs int) {
	s.Helper()
	events, err := recorder.Of(s.ctx, c.id)
	s.must(err)
	exits := map[string]int{}
	for _, event := range events {
		if _, ok := event.Body.(*eventtypes.TaskExit); ok && event.Exec() != "" {
			exits[event.Exec()]++
		}
	}
	if len(exits) != execs {
		s.Errorf("%d execs have exits, want %d", len(exits), execs)
	}
	for exec, count := range exits {
		if count != 1 {
			s.Errorf("%s has %d exits", exec, count)
		}
	}
}

// numbers is what seq says.
func numbers(count int) string {
	var text strings.Builder
	for i := range count {
		fmt.Fprintln(&text, i+1)
	}
	return text.String()
}
