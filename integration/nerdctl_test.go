package integration

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/integration/harness"
)

// nerdctl runs nerdctl, which has to exit with 0, and returns its output without the spaces around it.
func (s *scope) nerdctl(args ...string) string {
	s.Helper()
	result := daemon.Nerdctl(s.ctx, args...)
	s.must(result.Err())
	return strings.TrimSpace(result.Stdout)
}

// boxArgs returns the arguments of nerdctl that run a container of that name, which is removed with the test.
func (s *scope) boxArgs(name string, flags []string, command ...string) []string {
	s.Helper()
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := daemon.Nerdctl(ctx, "rm", "--force", "--volumes", name).Err(); err != nil { // no error if it is gone
			s.Error(err)
		}
	})
	return harness.NerdctlArgs(runtime, append([]string{"--name", name}, flags...), command...)
}

// box runs a container in the background and returns its id.
func (s *scope) box(name string, flags []string, command ...string) string {
	s.Helper()
	return s.nerdctl(s.boxArgs(name, append([]string{"--detach"}, flags...), command...)...)
}

// forever is the command of a container that does nothing until it is told to end. The first process of a container ignores
// signals for which it has no handler: awaitHandler waits until it has.
var forever = []string{"sh", "-c", "trap 'exit 0' TERM; touch /dev/shm/handler; while :; do sleep 1000000 & wait; done"}

func (s *scope) awaitHandler(name string) {
	s.Helper()
	s.nerdctl("exec", name, "sh", "-c", "until [ -e /dev/shm/handler ]; do sleep 0.1; done")
}

// expect checks what a command of nerdctl wrote.
func (s *scope) expect(pattern string, args ...string) {
	s.Helper()
	if got := s.nerdctl(args...); !regexp.MustCompile(pattern).MatchString(got) {
		s.Errorf("nerdctl %s: wrote %q, want %s", strings.Join(args, " "), got, pattern)
	}
}

// TestNerdctlRun runs containers in the foreground.
func TestNerdctlRun(t *testing.T) {
	s := begin(t)
	result := daemon.Nerdctl(s.ctx, s.boxArgs("front", []string{"--rm", "--env", "FRUIT=fig"}, "sh", "-c", "echo a $FRUIT; exit 7")...)
	if result.Stdout != "a fig\n" || result.Code != 7 {
		t.Errorf("run: %d, %q, %v", result.Code, result.Stdout, result.Err())
	}
	cmd := daemon.NerdctlCommand(s.ctx, s.boxArgs("interactive", []string{"--rm", "-it"}, "sh")...)
	terminal, err := harness.StartTerminal(cmd, 80, 24)
	s.must(err)
	t.Cleanup(func() { terminal.Close() })
	for _, step := range []struct{ expect, answer string }{
		{`# `, "tty; echo size $(stty size)\n"}, {`/dev/pts/0\r\nsize 24 80\r\n.*# `, "exit 3\n"},
	} {
		_, err := terminal.Expect(s.ctx, step.expect)
		s.must(err)
		s.must(terminal.Type(step.answer))
	}
	if code := terminal.Wait(); code != 3 {
		t.Errorf("run -it exited with %d", code)
	}
}

// TestNerdctlLogs follows the log of a container in the background from its beginning to its end.
func TestNerdctlLogs(t *testing.T) {
	s := begin(t)
	dir := s.TempDir()
	s.box("chatty", []string{"--volume", dir + ":/go"}, "sh", "-c", "echo one; until [ -e /go/on ]; do sleep 0.1; done; echo two >&2")
	follow := daemon.NerdctlCommand(s.ctx, "logs", "--follow", "chatty")
	output, err := follow.StdoutPipe()
	s.must(err)
	follow.Stderr = follow.Stdout
	s.must(follow.Start())
	first := make([]byte, len("one\n"))
	_, err = io.ReadFull(output, first)
	s.must(err)
	s.must(os.WriteFile(filepath.Join(dir, "on"), nil, 0o600))
	rest, err := io.ReadAll(output)
	s.must(err)
	s.must(follow.Wait())
	if got := string(first) + string(rest); got != "one\ntwo\n" {
		t.Errorf("logs --follow: %q", got)
	}
	if result := daemon.Nerdctl(s.ctx, "logs", "chatty"); result.Stdout != "one\n" || result.Stderr != "two\n" {
		t.Errorf("logs: %q, %q", result.Stdout, result.Stderr)
	}
}

// TestNerdctlLife uses a container in the background in every way, to its end.
func TestNerdctlLife(t *testing.T) {
	s := begin(t)
	id := s.box("life", nil, forever...)
	s.expect(`^`+id[:12]+`\s.*Up`, "ps", "--no-trunc=false", "--filter", "name=life", "--format", "{{.ID}} {{.Status}}")
	s.expect(`^running 10\.88\.0\.\d+ `+regexp.QuoteMeta(harness.Image), "inspect", "--format",
		"{{.State.Status}} {{.NetworkSettings.IPAddress}} {{.Config.Image}}", "life")

	result := daemon.Nerdctl(s.ctx, "exec", "life", "sh", "-c", "hostname; exit 5")
	// This nerdctl turns every exit status of an exec that is not 0 into 1.
	if want := id[:12] + "\n"; result.Stdout != want || result.Code == 0 {
		t.Errorf("exec: %d, %q, want %q", result.Code, result.Stdout, want)
	}
	s.expect(`(?s)PID.*\d+`, "top", "life")
	s.expect(`^life \d+\.\d\d% [1-9][\d.]*[KM]iB / [1-9][\d.]*[MGE]iB [1-9]\d*$`, "stats", "--no-stream", "--format",
		"{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.PIDs}}", "life")

	s.awaitHandler("life")
	s.nerdctl("stop", "life")
	s.expect(`^exited 0$`, "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "life")
	s.nerdctl("start", "life")
	s.expect(`^running$`, "inspect", "--format", "{{.State.Status}}", "life")
	s.awaitHandler("life")
	s.nerdctl("restart", "life")
	s.expect(`^up$`, "exec", "life", "echo", "up")
	s.nerdctl("pause", "life")
	s.expect(`^paused$`, "inspect", "--format", "{{.State.Status}}", "life")
	s.nerdctl("unpause", "life")
	s.nerdctl("rm", "--force", "life")
	s.expect(`^$`, "ps", "--all", "--quiet", "--filter", "name=life")
}

// TestNerdctlFiles copies files both ways, and shares volumes and directories of the host.
func TestNerdctlFiles(t *testing.T) {
	s := begin(t)
	dir := s.TempDir()
	s.must(os.WriteFile(filepath.Join(dir, "there"), []byte("to the container\n"), 0o644))
	s.nerdctl("volume", "create", "shells")
	t.Cleanup(func() {
		if err := daemon.Nerdctl(context.Background(), "volume", "rm", "shells").Err(); err != nil {
			t.Error(err)
		}
	})
	s.box("files", []string{"--volume", "shells:/volume", "--volume", dir + ":/host:ro"}, forever...)

	s.nerdctl("cp", filepath.Join(dir, "there"), "files:/tmp/there")
	s.expect("^to the container$", "exec", "files", "cat", "/tmp/there")
	s.nerdctl("exec", "files", "sh", "-c", "mkdir -p /tmp/tree/deep && echo to the host >/tmp/tree/deep/back")
	s.nerdctl("cp", "files:/tmp/tree", dir)
	back, err := os.ReadFile(filepath.Join(dir, "tree/deep/back"))
	if err != nil || string(back) != "to the host\n" {
		t.Errorf("cp from the container: %q, %v", back, err)
	}

	s.expect("^to the container$", "exec", "files", "cat", "/host/there")
	if result := daemon.Nerdctl(s.ctx, "exec", "files", "touch", "/host/more"); !strings.Contains(result.Stderr, "Read-only") {
		t.Errorf("write to a read-only volume: %d, %q", result.Code, result.Stderr)
	}
	s.nerdctl("exec", "files", "sh", "-c", "echo kept >/volume/file")
	s.nerdctl("rm", "--force", "files")
	s.expect("^kept$", s.boxArgs("heir", []string{"--rm", "--volume", "shells:/volume"}, "cat", "/volume/file")...)
}

// TestNerdctlLimits sees the limits of memory and processors where programs look for them.
func TestNerdctlLimits(t *testing.T) {
	s := limpetOnly(t) // whose cgroups are the guest's: version 2 on every host
	s.expect(`^67108864\n50000 100000$`, s.boxArgs("limits", []string{"--rm", "--cgroupns", "private", "--memory", "64m", "--cpus", "0.5"},
		"sh", "-c", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max")...)
}

// TestNerdctlRestart has a container that always ends restarted.
func TestNerdctlRestart(t *testing.T) {
	s := begin(t)
	dir := s.TempDir()
	events := s.record()
	id := s.box("phoenix", []string{"--restart", "always", "--volume", dir + ":/data"}, "sh", "-c", "echo again >>/data/lives; exit 1")
	s.must(events.Await(s.ctx, id, "start", "exit", "delete", "create", "start", "exit"))
	s.nerdctl("rm", "--force", "phoenix")
	lives, err := os.ReadFile(filepath.Join(dir, "lives"))
	if err != nil || strings.Count(string(lives), "again\n") < 2 {
		t.Errorf("it wrote %q, %v", lives, err)
	}
}

// TestNerdctlHealth asks for a container's health before and after it is well.
func TestNerdctlHealth(t *testing.T) {
	s := begin(t)
	s.box("patient", []string{"--health-cmd", "test -e /tmp/well", "--health-retries", "1"}, forever...)
	const status = "{{.State.Health.Status}}"
	daemon.Nerdctl(s.ctx, "container", "healthcheck", "patient") // its exit code is the health's
	s.expect("^unhealthy$", "inspect", "--format", status, "patient")
	s.nerdctl("exec", "patient", "touch", "/tmp/well")
	s.nerdctl("container", "healthcheck", "patient")
	s.expect("^healthy$", "inspect", "--format", status, "patient")
}

// TestNerdctlPort publishes a port of a container on the host.
func TestNerdctlPort(t *testing.T) {
	s := begin(t)
	s.box("web", []string{"--publish", "127.0.0.1:8080:80"}, "sh", "-c",
		"mkdir /www && echo low tide >/www/index.html && httpd -f -p 80 -h /www")
	s.expect(`^80/tcp -> 127\.0\.0\.1:8080$`, "port", "web")
	address := s.nerdctl("inspect", "--format", "{{.NetworkSettings.IPAddress}}", "web")
	s.awaitPort("web", 80)
	for _, from := range []string{"127.0.0.1:8080", address + ":80"} {
		result := harness.Run(daemon.Command(s.ctx, "busybox", "wget", "-q", "-O", "-", "http://"+from+"/"))
		if result.Stdout != "low tide\n" {
			t.Errorf("from %s: %q, %v", from, result.Stdout, result.Err())
		}
	}
}

// awaitPort waits until something in the container listens on a TCP port.
func (s *scope) awaitPort(name string, port int) {
	s.Helper()
	s.nerdctl("exec", name, "sh", "-c", fmt.Sprintf("until netstat -ltn | grep -q ':%d '; do sleep 0.1; done", port))
}
