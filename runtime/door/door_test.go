package door

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// dial connects to a door and says something, if it is not empty.
func dial(t *testing.T, network, path, text string) net.Conn {
	t.Helper()
	conn, err := net.Dial(network, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if text == "" {
		return conn
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestDoor(t *testing.T) {
	for _, network := range []string{"unix", "unixpacket"} {
		t.Run(network, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "door")
			ended := make(chan struct{}, maxVisitors+1)
			d, err := Open(network, path, slog.New(slog.DiscardHandler), func(ctx context.Context, visitor *net.UnixConn) {
				said := make([]byte, 16)
				n, _ := visitor.Read(said)
				_, _ = visitor.Write(said[:n])
				<-ctx.Done()
				ended <- struct{}{}
			})
			if err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("socket: %v, %v", info, err)
			}
			if _, err := Open(network, path, slog.New(slog.DiscardHandler), nil); err == nil {
				t.Error("a second door was opened at the same path")
			}
			answer := make([]byte, 16)
			var visitors []net.Conn
			for range maxVisitors {
				visitor := dial(t, network, path, "hello")
				if n, err := visitor.Read(answer); string(answer[:n]) != "hello" || err != nil {
					t.Fatalf("answer %q, %v", answer[:n], err)
				}
				visitors = append(visitors, visitor)
			}
			tooMany := dial(t, network, path, "")
			if n, err := tooMany.Read(answer); n != 0 || err == nil {
				t.Errorf("one too many hears %q, %v", answer[:n], err)
			}
			d.Close()
			for range visitors {
				select {
				case <-ended:
				default:
					t.Fatal("a visit goes on after Close")
				}
			}
			if _, err := visitors[0].Read(answer); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a visitor's connection after Close: %v", err)
			}
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the socket after Close: %v", err)
			}
			d.Close()
		})
	}
}

// TestPeer tells who has connected.
func TestPeer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "door")
	pids := make(chan int32, 1)
	d, err := Open("unix", path, slog.New(slog.DiscardHandler), func(_ context.Context, visitor *net.UnixConn) {
		peer, err := Peer(visitor)
		if err != nil {
			t.Error(err)
			return
		}
		pids <- peer.Pid
	})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	dial(t, "unix", path, "")
	if pid := <-pids; int(pid) != os.Getpid() {
		t.Errorf("peer %d, want %d", pid, os.Getpid())
	}
}
