package fork

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// started is a plan carried out by a process whose output the test reads.
type started struct {
	*Plan
	pid    int
	output *os.File
}

// start starts a plan whose steps are the test's.
func start(t *testing.T, flags uint64, steps func(*Plan)) *started {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	t.Cleanup(func() { read.Close() })
	s := &started{Plan: New(1 << 10), output: read}
	t.Cleanup(s.Close)
	s.Streams([3]int{int(null.Fd()), int(write.Fd()), int(write.Fd())})
	steps(s.Plan)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if s.pid, err = s.Start(-1, flags); err != nil {
		t.Fatal(err)
	}
	return s
}

// finish waits for the program's output and for the end of a process.
func (s *started) finish(t *testing.T, pid int) (string, unix.WaitStatus) {
	t.Helper()
	if err := s.output.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	if _, err := s.output.WriteTo(&said); err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		t.Fatal(err)
	}
	return said.String(), status
}

func TestExec(t *testing.T) {
	s := start(t, 0, func(p *Plan) {
		p.Call("umask", unix.SYS_UMASK, 0o077)
		p.CallIfPossible(unix.SYS_CLOSE, 12345)
		p.Exec([]string{"/nowhere/sh", "/bin/sh"}, []string{"sh", "-c", "umask; echo $A; ls /proc/self/fd; kill -TERM $$"}, []string{"A=b c"})
	})
	if err := s.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	said, status := s.finish(t, s.pid)
	if want := "0077\nb c\n0\n1\n2\n3\n"; said != want || status.Signal() != unix.SIGTERM {
		t.Errorf("said %q, want %q; status %#x", said, want, status)
	}
}

func TestFailures(t *testing.T) {
	for name, c := range map[string]struct {
		steps func(*Plan)
		call  string
		errno error
		exec  bool
	}{
		"a call": {func(p *Plan) {
			p.Call("go there", unix.SYS_CHDIR, p.Text("/nowhere"))
			p.Exec([]string{"/bin/true"}, []string{"true"}, nil)
		}, "go there", unix.ENOENT, false},
		"no program": {func(p *Plan) { p.Exec([]string{"/nowhere/a", "/etc/passwd/a"}, []string{"a"}, nil) }, "/nowhere/a", unix.ENOENT, true},
		"no executable": {func(p *Plan) {
			p.Exec([]string{"/nowhere/a", "/etc/passwd", "/b"}, []string{"a"}, nil)
		}, "/etc/passwd", unix.EACCES, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, 0, c.steps)
			err := s.Await(t.Context())
			var failed *CallError
			if !errors.As(err, &failed) || failed.Call != c.call || !errors.Is(err, c.errno) || failed.Exec != c.exec {
				t.Errorf("error %v", err)
			}
			s.finish(t, s.pid)
		})
	}
}

func TestHold(t *testing.T) {
	for name, proceed := range map[string]bool{"go on": true, "give up": false} {
		t.Run(name, func(t *testing.T) {
			s := start(t, 0, func(p *Plan) {
				p.Hold()
				p.Exec([]string{"/bin/sh"}, []string{"sh", "-c", "echo on"}, nil)
			})
			if err := s.AwaitHold(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := ""
			if proceed {
				if err := s.Proceed(); err != nil {
					t.Fatal(err)
				}
				if err := s.Await(t.Context()); err != nil {
					t.Fatal(err)
				}
				want = "on\n"
			} else {
				s.Close()
			}
			if said, _ := s.finish(t, s.pid); said != want {
				t.Errorf("said %q", said)
			}
		})
	}
}

func TestHoldNotReached(t *testing.T) {
	s := start(t, 0, func(p *Plan) {
		p.Call("go there", unix.SYS_CHDIR, p.Text("/nowhere"))
		p.Hold()
	})
	if err := s.AwaitHold(t.Context()); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
	s.finish(t, s.pid)
}

func TestDivide(t *testing.T) {
	s := start(t, 0, func(p *Plan) {
		p.Divide(0)
		p.Hold()
		p.Exec([]string{"/bin/sh"}, []string{"sh", "-c", "echo $PPID; exit 3"}, nil)
	})
	if err := s.AwaitHold(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Proceed(); err != nil {
		t.Fatal(err)
	}
	if err := s.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.Divided() == s.pid || s.Divided() == 0 {
		t.Fatalf("%d came of %d", s.Divided(), s.pid)
	}
	said, status := s.finish(t, s.Divided())
	if said != strconv.Itoa(os.Getpid())+"\n" || status.ExitStatus() != 3 {
		t.Errorf("said %q, status %#x", said, status)
	}
	if _, err := unix.Wait4(s.pid, nil, 0, nil); err != nil {
		t.Error(err)
	}
}

func TestRoom(t *testing.T) {
	for name, steps := range map[string]func(*Plan){
		"long text": func(p *Plan) { p.Text(strings.Repeat("x", slack+8<<10)) },
		"a zero":    func(p *Plan) { p.Text("a\x00b") },
		"many calls": func(p *Plan) {
			for range maxCalls {
				p.Call("x", unix.SYS_GETPID)
			}
		},
		"a standard stream": func(p *Plan) { p.Streams([3]int{0, 1, 2}) },
	} {
		p := New(1 << 10)
		defer p.Close()
		steps(p)
		if _, err := p.Start(-1, 0); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestWithheld has a process say what it has of this one's memory: a secret is not in it. This one has it still.
func TestWithheld(t *testing.T) {
	if layout, err := lasting(); err != nil || layout.bound {
		t.Skip("the race detector's test has a C library:", err)
	}
	secret := make([]byte, 1<<20)
	s := start(t, 0, func(p *Plan) { p.Hold() })
	if err := s.AwaitHold(t.Context()); err != nil {
		t.Fatal(err)
	}
	own := []unix.Iovec{{Base: new(byte), Len: 1}}
	for pid, want := range map[int]error{os.Getpid(): nil, s.pid: unix.EFAULT} {
		read := []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&secret[0])), Len: 1}}
		if _, err := unix.ProcessVMReadv(pid, own, read, 0); err != want {
			t.Errorf("read the memory of process %d: %v, want %v", pid, err, want)
		}
	}
	maps, err := os.ReadFile("/proc/" + strconv.Itoa(s.pid) + "/maps")
	if err != nil {
		t.Fatal(err)
	}
	writable := 0
	for line := range strings.Lines(string(maps)) {
		var from, to int
		var permissions string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &permissions); err == nil && permissions == "rw-p" {
			writable += to - from
		}
	}
	if writable > 4*os.Getpagesize() {
		t.Errorf("%d bytes of its own:\n%s", writable, maps)
	}
	s.Close()
	s.finish(t, s.pid)
	runtime.KeepAlive(secret)
	withheld := 0
	flags, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(flags)) {
		if strings.HasPrefix(line, "VmFlags:") && strings.Contains(line, " dc ") { // not copied by a fork
			withheld++
		}
	}
	if withheld > 1 { // [vvar] is always
		t.Errorf("%d parts of this process's memory are for no other process:\n%s", withheld, flags)
	}
}

func TestGaps(t *testing.T) {
	got := gapsBetween(extent{0, 100}, []extent{{50, 60}, {10, 20}, {20, 30}, {55, 58}, {120, 130}})
	if want := []extent{{0, 10}, {30, 50}, {60, 100}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := gapsBetween(extent{0, 9}, []extent{{0, 9}}); got != nil {
		t.Errorf("%v", got)
	}
}
