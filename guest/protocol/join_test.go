package protocol

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
	"time"
)

// newTCP returns the two ends of a connection over loopback.
func newTCP(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialled, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, conn := range []net.Conn{dialled, accepted} {
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

// joined is a client and a server whose connections are joined by a duplex, as on the host and in the guest.
type joined struct {
	client, server *net.TCPConn
	ends           chan error // of the two joins
}

func newJoined(t *testing.T) joined {
	client, host := newTCP(t)
	guest, server := newTCP(t)
	up, above := net.Pipe()
	down, below := net.Pipe()
	ends := make(chan error, 2)
	for near, duplex := range map[*net.TCPConn]*Duplex{host: NewDuplex(down, up), guest: NewDuplex(above, below)} {
		go func() {
			err := Join(near, duplex)
			near.Close()
			ends <- err
		}()
	}
	return joined{client, server, ends}
}

// finish awaits the end of both joins.
func (j joined) finish(t *testing.T, fails bool) {
	t.Helper()
	for range 2 {
		select {
		case err := <-j.ends:
			if (err != nil) != fails {
				t.Errorf("join: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a join does not end")
		}
	}
}

// TestJoinHalfClose has the client end its direction before the server says anything, then the other way round.
func TestJoinHalfClose(t *testing.T) {
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	for _, clientFirst := range []bool{true, false} {
		j := newJoined(t)
		first, second := j.client, j.server
		if !clientFirst {
			first, second = j.server, j.client
		}
		say := func(conn *net.TCPConn) {
			_, err := conn.Write(data)
			if err := errors.Join(err, conn.CloseWrite()); err != nil {
				t.Error(err)
			}
		}
		hear := func(conn *net.TCPConn) {
			if got, err := io.ReadAll(conn); !bytes.Equal(got, data) || err != nil {
				t.Errorf("client first %v: %d bytes came, %v", clientFirst, len(got), err)
			}
		}
		go say(first)
		hear(second)
		go say(second)
		hear(first)
		j.finish(t, false)
	}
}

// TestJoinReset passes a reset on, whoever it comes from, also while nothing flows.
func TestJoinReset(t *testing.T) {
	for _, fromClient := range []bool{true, false} {
		j := newJoined(t)
		first, second := j.client, j.server
		if !fromClient {
			first, second = j.server, j.client
		}
		if _, err := io.WriteString(first, "hi"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(second, make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
		Reset(first)
		if _, err := second.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("from the client %v: %v, want a reset", fromClient, err)
		}
		j.finish(t, true)
	}
}

// TestJoinAnswersFirst has a server that answers and leaves while the client still speaks.
func TestJoinAnswersFirst(t *testing.T) {
	j := newJoined(t)
	go func() { // until nobody reads any more
		for {
			if _, err := j.client.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	}()
	if _, err := io.ReadFull(j.server, make([]byte, 1<<16)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(j.server, "no"); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 2)
	if _, err := io.ReadFull(j.client, answer); err != nil || string(answer) != "no" {
		t.Errorf("%q, %v", answer, err)
	}
	j.server.Close()
	j.finish(t, true)
}

// TestJoinClosed ends with the streams.
func TestJoinClosed(t *testing.T) {
	_, near := newTCP(t)
	_, other := newTCP(t)
	ended := make(chan error)
	go func() { ended <- Join(near, other) }()
	near.Close()
	if err := <-ended; err == nil {
		t.Error("no error")
	}
}
