package protocol

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// wire makes the connections of a kept stream, as the host dials them to the guest. Each is cut after as many bytes, both ways counted, as
// budget says; less than 0: never.
type wire struct {
	ends   chan wireEnd // for the guest's side
	budget func() int
	dials  int
}

type wireEnd struct {
	net.Conn
	from uint64
}

func newWire(budget func() int) *wire { return &wire{ends: make(chan wireEnd, 1), budget: budget} }

// dial is the host's Reconnect.
func (w *wire) dial(ctx context.Context, offset uint64) (net.Conn, uint64, error) {
	if w.dials++; w.dials > 1e6 {
		return nil, 0, errors.New("no end of it")
	}
	host, guest := socketPair()
	if left := w.budget(); left >= 0 {
		fuse := &fuse{left: left, blow: func() { host.Close(); guest.Close() }}
		host, guest = fused{host, fuse}, fused{guest, fuse}
	}
	select {
	case w.ends <- wireEnd{guest, offset}:
		return host, offset, nil
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
}

// accept is the guest's Reconnect.
func (w *wire) accept(ctx context.Context, _ uint64) (net.Conn, uint64, error) {
	select {
	case end := <-w.ends:
		return end.Conn, end.from, nil
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
}

// fuse cuts a connection after so many bytes.
type fuse struct {
	mu   sync.Mutex
	left int
	blow func()
}

// take tells how many bytes may still pass, of n.
func (f *fuse) take(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n = min(n, f.left)
	if f.left -= n; f.left == 0 {
		defer f.blow()
	}
	return n
}

type fused struct {
	net.Conn
	*fuse
}

func (f fused) Write(p []byte) (int, error) {
	n := f.take(len(p))
	written, err := f.Conn.Write(p[:n])
	if err == nil && n < len(p) {
		err = io.ErrClosedPipe
	}
	return written, err
}

// socketPair returns two ends of a connection that holds some bytes on their way, as sockets do and a net.Pipe does not.
func socketPair() (net.Conn, net.Conn) {
	listener, err := net.Listen("unix", "")
	if err != nil {
		panic(err)
	}
	defer listener.Close()
	a, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		panic(err)
	}
	b, err := listener.Accept()
	if err != nil {
		panic(err)
	}
	return a, b
}

// carry sends data from one end to the other, and returns what arrives.
func carry(t *testing.T, sender *Sender, receiver *Receiver, data []byte) []byte {
	t.Helper()
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() {
		n, err := sender.ReadFrom(bytes.NewReader(data))
		if int(n) != len(data) || err != nil {
			t.Errorf("sent %d bytes of %d: %v", n, len(data), err)
		}
		sender.Finish()
	})
	got := make([]byte, len(data))
	if n, err := io.ReadFull(receiver, got); err != nil {
		t.Errorf("received %d bytes of %d: %v", n, len(data), err)
	}
	return got
}

// TestKeptStreamCutAtAnyByte cuts the first connection after each number of bytes.
func TestKeptStreamCutAtAnyByte(t *testing.T) {
	data := []byte("what is said once is heard once")
	const lastWord = 8 // the acknowledgement that ends the stream
	for cut := range len(data) + lastWord + 2 {
		for _, direction := range []string{"output", "input"} {
			budgets := []int{cut}
			w := newWire(func() int {
				if len(budgets) == 0 {
					return -1
				}
				defer func() { budgets = budgets[1:] }()
				return budgets[0]
			})
			sender, receiver := NewSender(w.accept, 3), NewReceiver(w.dial)
			if direction == "input" {
				_, _ = sender.Close(), receiver.Close()
				sender, receiver = NewSender(w.dial, 3), NewReceiver(w.accept)
			}
			if got := carry(t, sender, receiver, data); !bytes.Equal(got, data) {
				t.Fatalf("%s cut after %d bytes: %q", direction, cut, got)
			}
			receiver.Close()
			if cut > len(data)+lastWord {
				<-sender.Over()
			}
			sender.Close()
		}
	}
}

// TestKeptStreamCutOften cuts connections at random, while more than the window is carried.
func TestKeptStreamCutOften(t *testing.T) {
	data := make([]byte, 5*keptWindow)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(data)
	w := newWire(func() int { return int(random.Uint64() % (200 << 10)) })
	sender, receiver := NewSender(w.accept, MaxWrite), NewReceiver(w.dial)
	defer sender.Close()
	defer receiver.Close()
	if !bytes.Equal(carry(t, sender, receiver, data), data) {
		t.Error("the bytes that arrive are others")
	}
	if w.dials < 20 {
		t.Errorf("only %d connections", w.dials)
	}
}

// TestKeptStreamChunks carries a Duplex's direction with its end.
func TestKeptStreamChunks(t *testing.T) {
	budget := 40 // bytes of each connection
	w := newWire(func() int { budget++; return budget })
	sender, receiver := NewSender(w.dial, 64), NewReceiver(w.accept)
	defer receiver.Close()
	go func() {
		chunks := NewDuplex(nil, sender)
		for i := range 100 {
			if _, err := fmt.Fprintf(chunks, "line %d\n", i); err != nil {
				t.Error(err)
			}
		}
		if err := chunks.CloseWrite(); err != nil {
			t.Error(err)
		}
		sender.Finish()
	}()
	got, err := io.ReadAll(NewDuplex(receiver, nil))
	if err != nil || bytes.Count(got, []byte("\n")) != 100 || !bytes.HasSuffix(got, []byte("\nline 99\n")) {
		t.Errorf("%v, %q", err, got)
	}
	sender.Close()
}

// TestKeptWindow has a sender wait for its receiver.
func TestKeptWindow(t *testing.T) {
	w := newWire(func() int { return -1 })
	sender, receiver := NewSender(w.accept, MaxWrite), NewReceiver(w.dial)
	defer sender.Close()
	written := make(chan int, 1)
	go func() {
		n, err := sender.Write(make([]byte, 3*keptWindow))
		if !errors.Is(err, errKeptOver) {
			t.Error(err)
		}
		written <- n
	}()
	select {
	case n := <-written:
		t.Fatalf("wrote %d bytes that nobody reads", n)
	case <-time.After(50 * time.Millisecond):
	}
	if _, err := receiver.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	receiver.Close()
	if n := <-written; n < minKept || n > keptWindow+1 {
		t.Errorf("wrote %d bytes", n)
	}
	<-sender.Over()
	if _, err := receiver.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read of a closed stream: %v", err)
	}
}

func TestKeptReadDeadline(t *testing.T) {
	never := func(ctx context.Context, _ uint64) (net.Conn, uint64, error) {
		<-ctx.Done()
		return nil, 0, ctx.Err()
	}
	w := newWire(func() int { return -1 })
	go func() { _, _, _ = w.accept(t.Context(), 0) }()
	for name, reconnect := range map[string]Reconnect{"without a connection": never, "with one": w.dial} {
		receiver := NewReceiver(reconnect)
		time.AfterFunc(10*time.Millisecond, func() { _ = receiver.SetReadDeadline(time.Unix(1, 0)) })
		if _, err := receiver.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		_ = receiver.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := receiver.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s, later: %v", name, err)
		}
		_ = receiver.SetReadDeadline(time.Time{})
		time.AfterFunc(10*time.Millisecond, func() { receiver.Close() })
		if _, err := receiver.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s, closed: %v", name, err)
		}
	}
}

// TestKeptStreamsBadPeers has peers that ask for what is not there.
func TestKeptStreamsBadPeers(t *testing.T) {
	at := func(from uint64, say string) (Reconnect, net.Conn) {
		ours, theirs := socketPair()
		t.Cleanup(func() { theirs.Close() })
		_, _ = io.WriteString(theirs, say)
		return func(context.Context, uint64) (net.Conn, uint64, error) { return ours, from, nil }, theirs
	}
	for name, test := range map[string]struct {
		from uint64
		say  string
	}{
		"begins behind the end":      {9, ""},
		"acknowledges what was not":  {0, "\x00\x00\x00\x00\x00\x00\x00\x05"},
		"acknowledges less and less": {0, "\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x01"},
	} {
		reconnect, _ := at(test.from, test.say)
		began := make(chan struct{})
		sender := NewSender(func(ctx context.Context, offset uint64) (net.Conn, uint64, error) {
			<-began
			return reconnect(ctx, offset)
		}, 64)
		if _, err := io.WriteString(sender, "four"); err != nil {
			t.Fatal(err)
		}
		close(began)
		<-sender.Over()
		if _, err := io.WriteString(sender, "more"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	reconnect, _ := at(1, "x")
	if _, err := NewReceiver(reconnect).Read(make([]byte, 1)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a receiver that is to miss a byte: %v", err)
	}
}
