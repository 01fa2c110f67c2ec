package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeQEMU is the other end of a monitor.
type fakeQEMU struct {
	*testing.T
	conn  net.Conn
	lines *bufio.Scanner
}

func newFakeQEMU(t *testing.T) (*fakeQEMU, *net.UnixConn) {
	t.Helper()
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(theirs)
	if err = errors.Join(err, theirs.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); _ = ours.Close() })
	return &fakeQEMU{T: t, conn: conn, lines: bufio.NewScanner(conn)}, ours
}

func (q *fakeQEMU) say(line string) {
	if _, err := q.conn.Write([]byte(line + "\n")); err != nil {
		q.Error(err)
	}
}

// hear returns the next command and its id as it was written.
func (q *fakeQEMU) hear(want string) (id string) {
	var command struct {
		Execute string          `json:"execute"`
		ID      json.RawMessage `json:"id"`
	}
	if !q.lines.Scan() {
		q.Errorf("no %s: %v", want, q.lines.Err())
		return "0"
	}
	if err := json.Unmarshal(q.lines.Bytes(), &command); err != nil || command.Execute != want {
		q.Errorf("heard %s, not %s", q.lines.Text(), want)
	}
	return string(command.ID)
}

func (q *fakeQEMU) greet() {
	q.say(`{"QMP":{"version":{},"capabilities":["oob"]}}`)
	q.say(`{"return":{},"id":` + q.hear("qmp_capabilities") + `}`)
}

// connect makes a monitor; script is QEMU's part after the greeting.
func connect(t *testing.T, script func(q *fakeQEMU)) *monitor {
	t.Helper()
	q, conn := newFakeQEMU(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		q.greet()
		script(q)
	}()
	m, err := newMonitor(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.close(); <-done })
	return m
}

func TestCommands(t *testing.T) {
	m := connect(t, func(q *fakeQEMU) {
		q.say(`{"return":{},"id":` + q.hear("cont") + `}`)
		q.say(`{"id":` + q.hear("device_add") + `,"error":{"class":"GenericError","desc":"no such bus"}}`)
		q.hear("stop") // not answered
		_ = q.conn.Close()
	})
	if err := m.execute(t.Context(), "cont", nil); err != nil {
		t.Error(err)
	}
	var refusal *commandError
	if err := m.execute(t.Context(), "device_add", map[string]any{"id": "a"}); !errors.As(err, &refusal) || refusal.Class != "GenericError" {
		t.Errorf("a refused command: %v", err)
	}
	if err := m.execute(t.Context(), "stop", nil); !errors.Is(err, errMonitorClosed) {
		t.Errorf("a command that QEMU ended at: %v", err)
	}
	if err := m.execute(t.Context(), "cont", nil); err == nil {
		t.Error("a command after the end")
	}
}

// TestCommandContext gives up on an answer; the late one does not disturb the next command.
func TestCommandContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	m := connect(t, func(q *fakeQEMU) {
		late := q.hear("stop")
		cancel()
		next := q.hear("cont")
		q.say(`{"error":{"class":"GenericError","desc":"late"},"id":` + late + `}`)
		q.say(`{"return":{},"id":` + next + `}`)
	})
	if err := m.execute(ctx, "stop", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := m.execute(t.Context(), "cont", nil); err != nil {
		t.Error(err)
	}
}

func TestEvents(t *testing.T) {
	m := connect(t, func(q *fakeQEMU) {
		id := q.hear("device_del")
		q.say(`{"event":"STRANGE","data":{"device":7,"status":[]}}`)
		q.say(`{"event":"DEVICE_DELETED","data":{"device":"b"}}`)
		q.say(`{"return":{},"id":` + id + `}`)
		q.say(`{"event":"DEVICE_DELETED","data":{"device":"a","path":"/a"},"timestamp":{"seconds":1}}`)
		_ = q.conn.Close()
	})
	gone := func(id string) *expectation {
		return m.expect(func(e event) bool { return e.Name == "DEVICE_DELETED" && e.Device == id })
	}
	a, b, c, forgotten := gone("a"), gone("b"), gone("c"), gone("a")
	forgotten.forget()
	if err := m.execute(t.Context(), "device_del", nil); err != nil {
		t.Error(err)
	}
	for _, e := range []*expectation{a, b} {
		if _, err := e.wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.wait(t.Context()); !errors.Is(err, errMonitorClosed) {
		t.Errorf("an event that does not come: %v", err)
	}
	if _, seen := forgotten.seen(); seen {
		t.Error("a forgotten expectation is met")
	}
}

func TestPassFile(t *testing.T) {
	passed := make(chan string, 1)
	q, conn := newFakeQEMU(t)
	go func() {
		q.greet()
		line, rights := make([]byte, 1024), make([]byte, unix.CmsgSpace(4))
		n, rightsLength, _, _, err := q.conn.(*net.UnixConn).ReadMsgUnix(line, rights)
		if err != nil {
			q.Error(err)
		}
		passed <- readPassed(q.T, rights[:rightsLength])
		id := line[strings.LastIndex(string(line[:n]), `"id":`)+5 : n-2]
		q.say(`{"return":{},"id":` + string(id) + `}`)
	}()
	m, err := newMonitor(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	file, err := newMemory(0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte("passed"), 0); err != nil {
		t.Fatal(err)
	}
	if err := m.passFile(t.Context(), "name", file); err != nil {
		t.Fatal(err)
	}
	if got := <-passed; got != "passed" {
		t.Errorf("got %q", got)
	}
}

func readPassed(t *testing.T, rights []byte) string {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		t.Errorf("control messages: %v, %v", messages, err)
		return ""
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Errorf("files: %v, %v", fds, err)
		return ""
	}
	file := os.NewFile(uintptr(fds[0]), "passed")
	defer file.Close()
	text := make([]byte, 6)
	_, err = file.ReadAt(text, 0)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

// TestHandshake has QEMUs that never get to serve.
func TestHandshake(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		name   string
		ctx    context.Context
		script func(q *fakeQEMU)
		says   string
	}{
		{"silent", canceled, func(*fakeQEMU) {}, context.Canceled.Error()},
		{"ended", t.Context(), func(q *fakeQEMU) { _ = q.conn.Close() }, errMonitorClosed.Error()},
		{"other protocol", t.Context(), func(q *fakeQEMU) { q.say("220 smtp") }, "not of the protocol"},
		{"endless line", t.Context(), func(q *fakeQEMU) {
			_, _ = q.conn.Write([]byte(`{"QMP":"` + strings.Repeat("x", maxLine+1))) // ends with the connection
		}, bufio.ErrTooLong.Error()},
	} {
		q, conn := newFakeQEMU(t)
		go test.script(q)
		if m, err := newMonitor(test.ctx, conn); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, %v", test.name, m, err)
		}
	}
}
