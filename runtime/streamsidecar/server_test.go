package streamsidecar

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// server is one that runs, before a containerd that repeats everything after "heard: ".
type server struct {
	*testing.T
	options Options
	tcp     string
	stop    func()
}

func newOptions(t *testing.T) Options {
	dir := t.TempDir()
	return Options{
		Containerd: filepath.Join(dir, "containerd.sock"), Socket: filepath.Join(dir, "new", "stream.sock"),
		Output: filepath.Join(dir, "new", "output"), TCP: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler),
	}
}

func serve(t *testing.T, options Options) server {
	t.Helper()
	containerd, err := net.Listen("unix", options.Containerd)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := containerd.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, "heard: ")
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan []string, 1), make(chan error, 1)
	go func() { ended <- Run(ctx, options, func(addresses ...string) { ready <- addresses }) }()
	s := server{T: t, options: options}
	s.stop = func() {
		cancel()
		containerd.Close()
		select {
		case err := <-ended:
			ended <- nil
			if err != nil {
				t.Error(err)
			}
		case <-time.After(testTimeout):
			t.Error("the server does not end")
		}
	}
	t.Cleanup(s.stop)
	select {
	case addresses := <-ready:
		s.tcp = addresses[1]
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
	return s
}

// each calls f with a new connection over each of the networks.
func (s server) each(f func(client)) {
	s.Helper()
	for network, address := range map[string]string{"unix": s.options.Socket, "tcp": s.tcp} {
		s.Run(network, func(t *testing.T) {
			conn, err := net.Dial(network, address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(testTimeout)); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error) // closed: what serves it is not the test's to watch
			close(ended)
			f(client{T: t, Visitor: conn.(Visitor), ended: ended})
		})
	}
}

// TestContainerdProxy has no reply of its own, loses no early data, and passes on a half-close.
func TestContainerdProxy(t *testing.T) {
	serve(t, newOptions(t)).each(func(c client) {
		c.say("danger noodle\x00PRI * HTTP/2.0")
		c.want("heard: PRI * HTTP/2.0")
		c.say(" and more")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		c.want(" and more")
		c.wantEnd()
	})
}

// TestNoContainerdYet hangs up on who comes before containerd.
func TestNoContainerdYet(t *testing.T) {
	s := serve(t, newOptions(t))
	if err := os.Remove(s.options.Containerd); err != nil {
		t.Fatal(err)
	}
	s.each(func(c client) {
		c.say("danger noodle\x00")
		c.wantEnd()
	})
}

// TestOutput tells what is written to the FIFO until its writers are gone, to a visitor who has nothing more to say.
func TestOutput(t *testing.T) {
	s := serve(t, newOptions(t))
	s.each(func(c client) {
		c.say("danger noodle\x01")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		path, err := protocol.ReadOutputPath(c)
		if err != nil || filepath.Dir(path) != s.options.Output {
			t.Fatalf("%q, %v", path, err)
		}
		for _, text := range []string{"Compiling", " ..."} {
			first, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer first.Close()
			if _, err := io.WriteString(first, text); err != nil {
				t.Fatal(err)
			}
			c.want(text)
			if text == " ..." {
				break
			}
			second, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer second.Close()
		}
	})
	s.stop()
	if _, err := os.Stat(s.options.Output); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory of FIFOs: %v", err)
	}
}

// TestOutputEnds with its last writer, or with its visitor, while nothing was written; the FIFO goes with it.
func TestOutputEnds(t *testing.T) {
	s := serve(t, newOptions(t))
	s.each(func(c client) {
		c.say("danger noodle\x01")
		path, err := protocol.ReadOutputPath(c)
		if err != nil {
			t.Fatal(err)
		}
		writer, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		writer.Close()
		c.wantEnd()
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the FIFO: %v", err)
		}
	})
	for _, reset := range []bool{true, false} {
		conn, err := net.Dial("unix", s.options.Socket)
		if reset {
			conn, err = net.Dial("tcp", s.tcp)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "danger noodle\x01"); err != nil {
			t.Fatal(err)
		}
		path, err := protocol.ReadOutputPath(conn)
		if err != nil {
			t.Fatal(err)
		}
		writer, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		protocol.Reset(conn.(protocol.HalfCloser))
		state := []unix.PollFd{{Fd: int32(writer.Fd())}}
		if n, err := unix.Poll(state, int(testTimeout.Milliseconds())); n != 1 || err != nil || state[0].Revents != unix.POLLERR {
			t.Errorf("the writer is not told that nobody reads: %v, %v", state, err)
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the FIFO: %v", err)
		}
		writer.Close()
	}
}

// TestVectors says every row that a visitor could, and wants what the row's note says.
func TestVectors(t *testing.T) {
	file, err := os.Open("../../guest/protocol/testdata/streams.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	s := serve(t, newOptions(t))
	begins := map[string]string{"hello_proxy": "heard: ", "hello_proxy_with_h2_preface": "heard: PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"}
	rows := 0
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var row struct{ Name, Dir, Hex string }
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		if row.Dir != "c2s" {
			continue
		}
		rows++
		text, err := hex.DecodeString(row.Hex)
		if err != nil {
			t.Fatal(err)
		}
		s.each(func(c client) {
			c.say(string(text))
			switch {
			case begins[row.Name] != "":
				c.want(begins[row.Name])
			case row.Name == "hello_output":
				if path, err := protocol.ReadOutputPath(c); err != nil || filepath.Dir(path) != s.options.Output {
					c.Errorf("%q, %v", path, err)
				}
			default:
				if err := c.CloseWrite(); err != nil && !errors.Is(err, unix.ENOTCONN) { // who was hung up on already
					c.Fatal(err)
				}
				c.wantEnd()
			}
		})
	}
	if rows != 9 {
		t.Errorf("%d rows", rows)
	}
}

// TestLeftOver takes the place of a server that was killed, and of none that lives.
func TestLeftOver(t *testing.T) {
	options := newOptions(t)
	if err := os.MkdirAll(options.Output, 0o700); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(options.Output, "LEFT")
	if err := unix.Mkfifo(left, 0o600); err != nil {
		t.Fatal(err)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: options.Socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	serve(t, options)
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was left: %v", err)
	}
	other := options
	for name, change := range map[string]func(){
		"same":      func() {},
		"socket":    func() { other.Output = filepath.Join(t.TempDir(), "output") },
		"no socket": func() { other.Socket = filepath.Join(t.TempDir(), "file"); os.WriteFile(other.Socket, nil, 0o600) },
		"no output": func() { other.Output = "/"; other.Socket = filepath.Join(t.TempDir(), "socket") },
		"occupied":  func() { other.Output = filepath.Dir(options.Socket) },
		"open to others": func() {
			other.Output = filepath.Join(t.TempDir(), "output")
			other.Socket = filepath.Join(t.TempDir(), "socket")
			if err := errors.Join(os.Mkdir(other.Output, 0o700), os.Chmod(other.Output, 0o770)); err != nil {
				t.Error(err)
			}
		},
		"not loopback": func() { other.TCP = "192.0.2.1:80" },
	} {
		other = options
		change()
		if err := Run(t.Context(), other, func(...string) { t.Errorf("%s: it serves", name) }); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, test := range []struct {
		tcp     string
		exposed bool
		ok      bool
	}{
		{"", false, true}, {"127.0.0.1:8000", false, true}, {"127.1.2.3:0", false, true}, {"[::1]:8000", false, true},
		{"localhost:8000", false, true}, {":8000", false, false}, {"0.0.0.0:8000", false, false}, {"[::]:8000", false, false},
		{"192.0.2.1:8000", false, false}, {"example.com:8000", false, false}, {"8000", false, false}, {"0.0.0.0:8000", true, true},
	} {
		options := newOptions(t)
		options.TCP, options.Exposed = test.tcp, test.exposed
		if err := options.check(); (err == nil) != test.ok || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q, exposed %v: %v", test.tcp, test.exposed, err)
		}
	}
	options := newOptions(t)
	options.Socket = "relative"
	if err := options.check(); !errdefs.IsInvalidArgument(err) {
		t.Errorf("relative path: %v", err)
	}
}
