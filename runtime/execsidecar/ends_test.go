package execsidecar

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"
)

// streamPair makes both ends of a kind of stream: what is written to one can be read from the other.
type streamPair struct {
	name string
	open func(t *testing.T) (read, write *os.File)
}

var streamPairs = []streamPair{
	{"pipe", pipe},
	{"socket", func(t *testing.T) (read, write *os.File) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return file(t, fds[0]), file(t, fds[1])
	}},
	{"terminal", func(t *testing.T) (read, write *os.File) {
		master, path, err := console.NewPty()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { master.Close() })
		slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { slave.Close() })
		terminal, err := console.ConsoleFromFile(slave)
		if err != nil {
			t.Fatal(err)
		}
		if err := terminal.SetRaw(); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return slave, file(t, fd)
	}},
}

// file is a blocking descriptor that is closed with the test.
func file(t *testing.T, fd int) *os.File {
	f := os.NewFile(uintptr(fd), "stream")
	t.Cleanup(func() { f.Close() })
	return f
}

func openEnd(t *testing.T, file *os.File) End {
	t.Helper()
	end, err := OpenEnd(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end.Close() })
	return end
}

func isNonblocking(t *testing.T, file *os.File) bool {
	t.Helper()
	flags, err := unix.FcntlInt(file.Fd(), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	return flags&unix.O_NONBLOCK != 0
}

// TestEnds copies through ends and closes one that waits, without a change to the descriptors that others share.
func TestEnds(t *testing.T) {
	for _, pair := range streamPairs {
		t.Run(pair.name, func(t *testing.T) {
			read, write := pair.open(t)
			was := [2]bool{isNonblocking(t, read), isNonblocking(t, write)}
			in, out := openEnd(t, read), io.WriteCloser(write)
			if pair.name != "terminal" { // whose other side cannot be opened twice
				out = openEnd(t, write)
			}
			sent := make([]byte, 1<<20)
			_, _ = rand.Read(sent) // never fails
			go func() {
				if n, err := out.Write(sent); n != len(sent) || err != nil {
					t.Errorf("wrote %d, %v", n, err)
				}
			}()
			got := make([]byte, len(sent))
			if _, err := io.ReadFull(in, got); err != nil || !bytes.Equal(got, sent) {
				t.Fatalf("read what was not written: %v", err)
			}
			if now := [2]bool{isNonblocking(t, read), isNonblocking(t, write)}; now != was {
				t.Errorf("non-blocking %v, was %v", now, was)
			}

			waits := make(chan error)
			go func() {
				waits <- nil
				_, err := in.Read(got)
				waits <- err
			}()
			<-waits
			in.Close()
			if err := <-waits; !errors.Is(err, os.ErrClosed) {
				t.Errorf("a Read that waited for a closed end: %v", err)
			}
			if _, err := in.Read(got); !errors.Is(err, os.ErrClosed) {
				t.Errorf("a Read of a closed end: %v", err)
			}
		})
	}
}

// TestEndsOfInput has ends see the end of what is written.
func TestEndsOfInput(t *testing.T) {
	for _, pair := range streamPairs {
		if pair.name == "terminal" {
			continue // it has none
		}
		t.Run(pair.name, func(t *testing.T) {
			read, write := pair.open(t)
			in, out := openEnd(t, read), openEnd(t, write)
			if _, err := out.Write([]byte("last")); err != nil {
				t.Fatal(err)
			}
			out.Close()
			write.Close()
			if text, err := io.ReadAll(in); string(text) != "last" || err != nil {
				t.Errorf("read %q, %v", text, err)
			}
		})
	}
}

// TestEndsFull closes an end that waits for its reader, and writes where there is none.
func TestEndsFull(t *testing.T) {
	for _, pair := range streamPairs[:2] {
		t.Run(pair.name, func(t *testing.T) {
			read, write := pair.open(t)
			out := openEnd(t, write)
			ended := make(chan error)
			go func() {
				for {
					if _, err := out.Write(make([]byte, 64<<10)); err != nil {
						ended <- err
						return
					}
				}
			}()
			if _, err := io.ReadFull(read, make([]byte, 64<<10)); err != nil { // it is under way
				t.Fatal(err)
			}
			out.Close()
			if err := <-ended; !errors.Is(err, os.ErrClosed) {
				t.Errorf("a Write that waited for a closed end: %v", err)
			}
			read.Close()
			if _, err := openEnd(t, write).Write([]byte("x")); !errors.Is(err, unix.EPIPE) {
				t.Errorf("a Write without a reader: %v", err)
			}
		})
	}
}

// TestEndsOfFiles shares the position with the descriptor.
func TestEndsOfFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, text := range []string{"one ", "two"} {
		end := openEnd(t, file)
		if _, err := end.Write([]byte(text)); err != nil {
			t.Error(err)
		}
		end.Close()
	}
	if text, err := os.ReadFile(path); string(text) != "one two" || err != nil {
		t.Errorf("the file has %q, %v", text, err)
	}
}
