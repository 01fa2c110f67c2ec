package runtime

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/client"
)

// connected returns the two ends of a unix stream socket, which has a buffer as a vsock connection has.
func connected(t testing.TB) (host, guest net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		if conns[i], err = net.FileConn(file); err != nil {
			t.Fatal(err)
		}
		file.Close()
		t.Cleanup(func() { conns[i].Close() })
	}
	return conns[0], conns[1]
}

func TestOutputEnds(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(*output, net.Conn, net.Conn)
	}{
		{"end after the bytes", func(o *output, host, guest net.Conn) {
			o.start(host)
			say(t, guest, "hello")
			o.end(5)
		}},
		{"end before the bytes", func(o *output, host, guest net.Conn) {
			o.start(host)
			o.end(5)
			say(t, guest, "hel")
			say(t, guest, "lo")
		}},
		{"end before the stream", func(o *output, host, guest net.Conn) {
			o.end(5)
			o.start(host)
			say(t, guest, "hello")
		}},
		{"the guest closes", func(o *output, host, guest net.Conn) {
			o.start(host)
			say(t, guest, "hello")
			guest.Close()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			host, guest := connected(t)
			sink := newBuffer()
			o := newOutput(sink)
			test.do(o, host, guest)
			wait(t, o.done, "the stream's end")
			if sink.String() != "hello" {
				t.Errorf("got %q", sink)
			}
			wait(t, sink.closed, "the sink is closed")
			if _, err := guest.Read(make([]byte, 1)); err == nil {
				t.Error("the stream is open")
			}
		})
	}
}

func TestOutputOfNothing(t *testing.T) {
	host, _ := connected(t)
	o := newOutput(newBuffer())
	o.start(host)
	o.end(0)
	wait(t, o.done, "the stream's end")
}

// refusing is a sink whose reader is gone.
type refusing struct{ io.Closer }

func (refusing) Write([]byte) (int, error) { return 0, errors.New("nobody reads") }

// TestOutputRefused has nobody at the other end: the process is not held up by it.
func TestOutputRefused(t *testing.T) {
	host, guest := connected(t)
	o := newOutput(refusing{newBuffer()})
	o.start(host)
	const size = 4 << 20
	if _, err := guest.Write(make([]byte, size)); err != nil {
		t.Error(err)
	}
	o.end(size)
	wait(t, o.done, "the stream's end")
}

// TestStreamsBothWays sends much through a process that gives back what it gets.
func TestStreamsBothWays(t *testing.T) {
	data := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	sink := newBuffer()
	s := newStreams(IO{Stdin: io.NopCloser(bytes.NewReader(data)), Stdout: sink})
	stdinHost, stdinGuest := connected(t)
	stdoutHost, stdoutGuest := connected(t)
	s.stdin.start(func(context.Context) (client.InputStream, error) { return fakeInput{stdinHost}, nil })
	s.stdout.start(stdoutHost)
	n, err := io.Copy(struct{ io.Writer }{stdoutGuest}, struct{ io.Reader }{stdinGuest})
	if err != nil {
		t.Fatal(err)
	}
	s.end("stdout", uint64(n))
	wait(t, s.stdout.done, "the stream's end")
	if got := sink.bytes.Bytes(); sha256.Sum256(got) != sha256.Sum256(data) {
		t.Errorf("got other %d bytes", len(got))
	}
}

// TestCloseBeforeStart closes streams that are started later.
func TestCloseBeforeStart(t *testing.T) {
	s := newStreams(IO{Stdin: io.NopCloser(&bytes.Buffer{}), Stdout: newBuffer()})
	s.close()
	s.stdin.dial = func(context.Context) (client.InputStream, error) {
		t.Error("a closed input is dialed")
		return nil, errors.New("nobody is there")
	}
	s.stdin.pump()
	host, guest := connected(t)
	s.stdout.start(host)
	if _, err := guest.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is open")
	}
	s.drain(t.Context(), testTimeout, true)
}

// TestInputIsDialedWhenThereIsSome waits for bytes, or for their end.
func TestInputIsDialedWhenThereIsSome(t *testing.T) {
	for _, text := range []string{"", "hello"} {
		t.Run(text, func(t *testing.T) {
			reader, writer := io.Pipe()
			s := newStreams(IO{Stdin: reader})
			host, guest := connected(t)
			dialed := make(chan struct{})
			s.stdin.start(func(context.Context) (client.InputStream, error) {
				close(dialed)
				return fakeInput{host}, nil
			})
			select {
			case <-dialed:
				t.Error("dialed before there is anything")
			default:
			}
			go func() {
				_, _ = io.WriteString(writer, text)
				writer.Close()
			}()
			wait(t, dialed, "the input is dialed")
			if got, err := io.ReadAll(guest); string(got) != text || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// TestCloseWhileDialing closes an input whose guest does not answer, and one whose connection comes too late.
func TestCloseWhileDialing(t *testing.T) {
	for name, answer := range map[string]func(context.Context, client.InputStream) (client.InputStream, error){
		"no answer": func(ctx context.Context, _ client.InputStream) (client.InputStream, error) { return nil, ctx.Err() },
		"too late":  func(_ context.Context, conn client.InputStream) (client.InputStream, error) { return conn, nil },
	} {
		t.Run(name, func(t *testing.T) {
			host, guest := connected(t)
			s := newStreams(IO{Stdin: io.NopCloser(strings.NewReader("hello"))})
			s.stdin.dial = func(ctx context.Context) (client.InputStream, error) {
				s.close()
				<-ctx.Done()
				return answer(ctx, fakeInput{host})
			}
			s.stdin.pump()
			host.Close()
			if got, _ := io.ReadAll(guest); len(got) > 0 {
				t.Errorf("got %q", got)
			}
		})
	}
}

// BenchmarkOutput measures what the pump of an output carries from a socket to a pipe.
func BenchmarkOutput(b *testing.B) {
	host, guest := connected(b)
	reader, writer, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		_, _ = io.Copy(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{reader})
	}()
	o := newOutput(writer)
	o.start(host)
	chunk := make([]byte, 64<<10)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, err := guest.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	o.end(uint64(b.N * len(chunk)))
	<-o.done
}
