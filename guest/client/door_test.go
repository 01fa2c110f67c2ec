package client

import (
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/limpet-run/limpet/guest/protocol"
)

// TestOpen has a further session by a door, over two connections.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	logger := slog.New(slog.DiscardHandler)
	if _, err := Open(t.Context(), dir, nil, logger); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no sandbox: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, TokenFile), []byte(testToken), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), dir, nil, logger); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a sandbox that is being made: %v", err)
	}
	listener, err := net.Listen("unix", filepath.Join(dir, SessionDoor))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	told := make(chan any, 8)
	names := make(chan string, 2)
	welcome := func() *guest {
		conn, err := listener.Accept()
		if err != nil {
			t.Error(err)
			return nil
		}
		g := &guest{T: t, GuestConn: protocol.NewGuestConn(conn), raw: conn}
		hello := testHello
		hello.LastAck = 0
		g.notify(hello)
		in := g.read()
		auth, ok := in.Message.(protocol.Auth)
		if !ok || auth.Token != testToken || auth.Clock != nil || auth.Entropy != nil {
			t.Errorf("%+v came", in)
		}
		names <- auth.Session
		g.respond(in, protocol.AuthOK{})
		g.Authenticated()
		g.notify(protocol.Ready{})
		return g
	}
	guests := make(chan *guest, 1)
	go func() { guests <- welcome() }()
	session, err := Open(t.Context(), dir, recorder{told}, logger)
	if err != nil {
		t.Fatal(err)
	}
	g := <-guests
	g.notify(exit(1))
	if got := <-told; got != exit(1) {
		t.Errorf("told %+v", got)
	}
	_ = g.Close()
	g = welcome()
	if a, b := <-names, <-names; a != b || len(a) != protocol.MaxSessionName {
		t.Errorf("the session is named %q, then %q", a, b)
	}
	call := background(func() error { return session.Do(t.Context(), protocol.Signal{RequestID: 1}) })
	g.respond(g.readCommand(), protocol.OK{})
	if err := <-call; err != nil {
		t.Error(err)
	}
	go func() { _ = g.drain() }()
	if err := session.Close(); err != nil {
		t.Error(err)
	}
	if _, err := (&doors{dir: dir}).Dial(t.Context(), protocol.RequestPort); err == nil {
		t.Error("there is a door for every port")
	}
}

func TestOpenLogs(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenLogs(t.Context(), dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no sandbox: %v", err)
	}
	listener, err := net.Listen("unix", filepath.Join(dir, LogDoor))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	logs, err := OpenLogs(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	writer := protocol.NewWriter(conn)
	if err := protocol.WriteLogLine(writer, []byte(`{"msg":"text"}`)); err != nil {
		t.Fatal(err)
	}
	if line, err := logs.Next(); string(line) != `{"msg":"text"}` || err != nil {
		t.Errorf("read %q, %v", line, err)
	}
	if err := writer.Write(protocol.Header{Type: protocol.Stream, Opcode: protocol.StreamStdout}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := logs.Next(); err == nil {
		t.Error("another frame is a line")
	}
	_ = logs.Close()
}
