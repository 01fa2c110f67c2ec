package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/integration/harness"
	"github.com/limpet-run/limpet/runtime/exitcode"
	"github.com/limpet-run/limpet/runtime/standalone"
)

// runTimeout is how long a run may take to come to its next state.
const runTimeout = 60 * time.Second

// rootfs makes a directory with a root file system: busybox, and what its user adds.
func (s *scope) rootfs() string {
	s.Helper()
	root := s.TempDir()
	for _, dir := range []string{"bin", "etc", "tmp"} {
		s.must(os.Mkdir(filepath.Join(root, dir), 0o755))
	}
	busybox, err := os.ReadFile("/bin/busybox")
	s.must(err)
	s.must(os.WriteFile(filepath.Join(root, "bin/busybox"), busybox, 0o755))
	s.must(os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n"), 0o644))
	s.must(os.WriteFile(filepath.Join(root, "text"), nil, 0o644))
	s.must(harness.Run(exec.CommandContext(s.ctx, "chroot", root, "/bin/busybox", "--install", "-s", "/bin")).Err())
	return root
}

// runName is a new name for a run.
func (s *scope) runName() string { return strings.ToLower(s.id()) }

// awaitRun waits until a run has come to a state.
func (s *scope) awaitRun(name string, state standalone.State) standalone.Record {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, runTimeout)
	defer cancel()
	for {
		record, err := standalone.Find(daemon.StateDir(), name)
		if err == nil && record.State == state {
			return record
		}
		select {
		case <-time.After(20 * time.Millisecond): // nothing tells of it
		case <-ctx.Done():
			s.Fatalf("run %s is not %s: %+v, %v", name, state, record, err)
		}
	}
}

// TestRun runs commands without a containerd.
func TestRun(t *testing.T) {
	s := limpetOnly(t)
	root := s.rootfs()

	t.Run("the guest's kernel", func(t *testing.T) {
		host, err := exec.Command("uname", "-r").Output()
		s.must(err)
		result := s.limpet("run", root, "--", "uname", "-r")
		s.must(result.Err())
		if result.Stdout == string(host) || !strings.Contains(result.Stdout, ".") || result.Stderr != "" {
			t.Errorf("got %q and %q, the host has %q", result.Stdout, result.Stderr, host)
		}
	})
	t.Run("what the flags say", func(t *testing.T) {
		shared, file := t.TempDir(), filepath.Join(t.TempDir(), "env")
		s.must(os.WriteFile(filepath.Join(shared, "in"), []byte("from the host"), 0o644))
		s.must(os.WriteFile(file, []byte("# variables\nA=file\nB=file\nHOME\n"), 0o644))
		result := s.limpet("run", "--name", "flags", "--hostname", "other", "--user", "web", "--workdir", "/etc",
			"--env-file", file, "-e", "A=a,b c", "-v", shared+":/ro:ro", "-v", shared+":/rw", "--read-only", "--memory", "64m",
			"--cpus", "1.5", "--entrypoint", "sh", root, "-c",
			`echo $A.$B.$HOME; id; pwd; hostname; cat /ro/in; echo; for f in /ro/x /x; do touch $f 2>/dev/null || echo no $f; done
			cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max; ip link | grep -c ether; hostname -i; exit 7`)
		if result.Code != 7 {
			t.Errorf("exit status %d: %s", result.Code, result.Stderr)
		}
		want := fmt.Sprintf("a,b c.file.%s\nuid=33(web) gid=34\n/etc\nother\nfrom the host\nno /ro/x\nno /x\n67108864\n150000 100000\n0\n"+
			"127.0.1.1\n", os.Getenv("HOME"))
		if result.Stdout != want {
			t.Errorf("got %q, want %q", result.Stdout, want)
		}
	})
	t.Run("changes stay in the directory", func(t *testing.T) {
		s.must(s.limpet("run", "--rm", root, "sh", "-c", "echo kept > /kept").Err())
		if text, err := os.ReadFile(filepath.Join(root, "kept")); err != nil || string(text) != "kept\n" {
			t.Errorf("got %q, %v", text, err)
		}
	})
	for _, test := range []struct {
		name  string
		args  []string
		code  int
		words []string // of the error
	}{
		{"signal", []string{root, "--", "sh", "-c", `sh -c 'kill -TERM $$'; exit $?`}, 143, nil},
		{"timeout", []string{"--timeout", "500ms", root, "--", "sleep", "1000"}, 124, []string{"500ms"}},
		{"not there", []string{root, "--", "nothere"}, 127, []string{`"nothere"`}},
		{"not executable", []string{root, "--", "/text"}, 126, []string{`"/text"`}},
		{"no such user", []string{"--user", "nobody", root, "--", "true"}, 125, []string{"nobody", "/etc/passwd"}},
		{"no root file system", []string{filepath.Join(root, "nowhere"), "--", "true"}, 125, []string{"nowhere"}},
		{"no command", []string{root}, 125, []string{"command"}},
		{"nothing", nil, 125, []string{"root file system"}},
		{"unknown flag", []string{"--loud", root, "--", "true"}, 125, []string{"-loud"}},
		{"bad name", []string{"--name", "a/b", root, "--", "true"}, 125, []string{`"a/b"`}},
		{"bad volume", []string{"-v", "x", root, "--", "true"}, 125, []string{`"x"`, "HOST:GUEST"}},
		{"missing volume", []string{"-v", "/nowhere:/x", root, "--", "true"}, 125, []string{"/nowhere"}},
		{"bad memory", []string{"-m", "lots", root, "--", "true"}, 125, []string{`"lots"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			result := s.limpet("run", test.args...)
			if result.Code != test.code || result.Stdout != "" {
				t.Errorf("exit status %d, want %d; output %q; %s", result.Code, test.code, result.Stdout, result.Stderr)
			}
			if test.words != nil {
				wantError(t, result.Stderr, test.words...)
			}
		})
	}
}

// TestRunStreams has the standard streams of a run.
func TestRunStreams(t *testing.T) {
	s := limpetOnly(t)
	root := s.rootfs()
	data := make([]byte, 8<<20)
	random := rand.NewChaCha8([32]byte{1})
	_, err := io.ReadFull(random, data)
	s.must(err)

	cmd := s.limpetCmd("run", "-i", root, "--", "sh", "-c", "cat; echo done >&2")
	cmd.Stdin = bytes.NewReader(data)
	result := harness.Run(cmd)
	s.must(result.Err())
	if sha256.Sum256([]byte(result.Stdout)) != sha256.Sum256(data) || result.Stderr != "done\n" {
		t.Errorf("got %d bytes of %d, and %q", len(result.Stdout), len(data), result.Stderr)
	}

	t.Run("no input", func(t *testing.T) {
		cmd := s.limpetCmd("run", root, "--", "cat")
		cmd.Stdin = bytes.NewReader(data)
		if result := harness.Run(cmd); result.Code != 0 || result.Stdout != "" {
			t.Errorf("got %d, %d bytes", result.Code, len(result.Stdout))
		}
	})
	t.Run("a reader that goes away", func(t *testing.T) {
		cmd := s.limpetCmd("run", root, "--", "yes")
		output, err := cmd.StdoutPipe()
		s.must(err)
		s.must(cmd.Start())
		_, err = io.ReadFull(output, make([]byte, 100))
		s.must(err)
		s.must(output.Close())
		_ = cmd.Wait() // the code says all
		if code := cmd.ProcessState.ExitCode(); code != 137 {
			t.Errorf("exit status %d", code)
		}
	})
}

// TestRunTerminal has a shell on a terminal.
func TestRunTerminal(t *testing.T) {
	s := limpetOnly(t)
	sh := shell{s, s.terminal(s.limpetCmd("run", "-it", "-e", "PS1="+prompt, s.rootfs(), "sh"))}
	sh.expect(prompt)
	sh.command("stty size", "24 80")
	sh.must(sh.Resize(100, 30))
	sh.must(sh.Type("sh -c 'echo st\"\"arted; exec sleep 1000'\n"))
	sh.expect(`started\s`)
	sh.must(sh.Type("\x03"))
	sh.expect(prompt)
	awaitSize(sh, "30 100")
	sh.exit("9", 9)
}

// TestRunPorts leads ports of the host to the guest.
func TestRunPorts(t *testing.T) {
	s := limpetOnly(t)
	name := s.runName()
	cmd := s.limpetCmd("run", "--name", name, "-p", "0:7", s.rootfs(), "--", "nc", "-l", "-p", "7", "-e", "cat")
	s.must(cmd.Start())
	record := s.awaitRun(name, standalone.StateRunning)
	var conn net.Conn
	for { // the guest may not listen yet: a connection is then reset
		var err error
		conn, err = net.Dial("tcp", net.JoinHostPort(record.Ports[0].Address, fmt.Sprint(record.Ports[0].Host)))
		s.must(err)
		_, err = conn.Write([]byte("hello"))
		s.must(err)
		answer := make([]byte, 5)
		if _, err = io.ReadFull(conn, answer); err == nil {
			if string(answer) != "hello" {
				t.Errorf("got %q", answer)
			}
			break
		}
		conn.Close()
		s.must(s.ctx.Err())
	}
	s.must(conn.Close())
	s.must(cmd.Wait())

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	result := s.limpet("run", "-p", fmt.Sprintf("%d:7", port), s.rootfs(), "true")
	if result.Code != exitcode.Failure {
		t.Errorf("exit status %d", result.Code)
	}
	wantError(t, result.Stderr, fmt.Sprint(port), "in use")
}

// TestRunSignals sends signals to limpet, which passes them on.
func TestRunSignals(t *testing.T) {
	s := limpetOnly(t)
	root := s.rootfs()
	for _, test := range []struct {
		name, script string
		state        standalone.State
		signals      []unix.Signal
		code         int
	}{
		{"handled", `trap "exit 3" USR1; echo ready; while :; do sleep 0.1; done`, standalone.StateRunning, []unix.Signal{unix.SIGUSR1}, 3},
		{"ignored", `echo ready; sleep 1000`, standalone.StateRunning, []unix.Signal{unix.SIGTERM, unix.SIGTERM, unix.SIGINT}, 137},
		{"while it starts", `sleep 1000`, standalone.StateStarting, []unix.Signal{unix.SIGINT}, 130},
	} {
		t.Run(test.name, func(t *testing.T) {
			name := s.runName()
			cmd := s.limpetCmd("run", "--name", name, root, "--", "sh", "-c", test.script)
			output, err := cmd.StdoutPipe()
			s.must(err)
			s.must(cmd.Start())
			s.awaitRun(name, test.state)
			if test.state == standalone.StateRunning {
				_, err := io.ReadFull(output, make([]byte, len("ready\n")))
				s.must(err)
			}
			for _, signal := range test.signals {
				s.must(cmd.Process.Signal(signal))
				time.Sleep(10 * time.Millisecond) // equal signals that are not taken yet are one
			}
			_ = cmd.Wait() // the code says all
			if code := cmd.ProcessState.ExitCode(); code != test.code {
				t.Errorf("exit status %d, want %d", code, test.code)
			}
		})
	}
}

// TestRunKilled kills the holder of a run. What it leaves is taken back by the next run, also by one of the same name.
func TestRunKilled(t *testing.T) {
	s := limpetOnly(t)
	root := s.rootfs()
	name := s.runName()
	kill := func() {
		cmd := s.limpetCmd("run", "--name", name, root, "--", "sleep", "1000")
		s.must(cmd.Start())
		s.awaitRun(name, standalone.StateRunning)
		result := s.limpet("run", "--name", name, root, "--", "true")
		if result.Code != exitcode.Failure {
			t.Errorf("exit status %d", result.Code)
		}
		wantError(t, result.Stderr, name, "limpet rm")
		s.must(cmd.Process.Kill())
		_ = cmd.Wait() // killed
		if _, err := standalone.Find(daemon.StateDir(), name); err != nil {
			t.Fatal(err)
		}
	}
	for _, next := range []string{name, s.runName()} {
		kill()
		s.must(s.limpet("run", "--name", next, root, "--", "true").Err())
		if records, err := standalone.List(daemon.StateDir()); err != nil || len(records) > 0 {
			t.Errorf("left: %+v, %v", records, err)
		}
	}
}
