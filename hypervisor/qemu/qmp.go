package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxLine bounds one line of QMP: answers to our commands are below a kilobyte, and QEMU has to be free to add to them.
const maxLine = 1 << 20

// writeTimeout ends the session with a QEMU that hangs: the socket's buffer takes hundreds of commands, so none ever waits long.
const writeTimeout = 5 * time.Second

// monitor is a QMP session (QEMU's docs/interop/qmp-spec). Commands may be in flight at once; QEMU answers in order. Its methods
// are safe for concurrent use.
type monitor struct {
	conn     *net.UnixConn
	greeting chan struct{} // closed by QEMU's first line
	writing  chan struct{} // held while a command is written; a channel, so that a context can end the wait for it
	done     chan struct{} // closed when the session is over
	err      error         // why; valid after done

	mu       sync.Mutex
	lastID   uint64
	pending  map[uint64]chan<- error // what a command came to
	expected map[*expectation]struct{}
}

// message is any line that QEMU sends. Exactly one of Greeting, Event, Return and Error is set.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Event    string          `json:"event"`
	Data     json.RawMessage `json:"data"`
	Return   json.RawMessage `json:"return"`
	Error    *commandError   `json:"error"`
	ID       uint64          `json:"id"`
}

// event is the part of QEMU's events that is of use here.
type event struct {
	Name   string `json:"-"`
	Device string `json:"device"` // DEVICE_DELETED, DEVICE_UNPLUG_GUEST_ERROR
	Status string `json:"status"` // MIGRATION
	Reason string `json:"reason"` // SHUTDOWN
}

// commandError is QEMU's refusal of a command.
type commandError struct {
	Class       string `json:"class"`
	Description string `json:"desc"`
}

// Error implements error.
func (e *commandError) Error() string { return e.Description }

// errMonitorClosed ends what was in flight when QEMU closed the session, which it does by ending.
var errMonitorClosed = errors.New("QEMU closed its monitor")

// newMonitor takes over the connection and negotiates. The connection is closed with the monitor, also on error.
func newMonitor(ctx context.Context, conn *net.UnixConn) (*monitor, error) {
	m := &monitor{
		conn:     conn,
		greeting: make(chan struct{}),
		writing:  make(chan struct{}, 1),
		done:     make(chan struct{}),
		pending:  map[uint64]chan<- error{},
		expected: map[*expectation]struct{}{},
	}
	go m.read()
	if err := m.negotiate(ctx); err != nil {
		m.close()
		return nil, fmt.Errorf("QMP handshake: %w", err)
	}
	return m, nil
}

func (m *monitor) negotiate(ctx context.Context) error {
	select {
	case <-m.greeting:
		return m.execute(ctx, "qmp_capabilities", nil)
	case <-m.done:
		return m.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close ends the session and waits for its reader.
func (m *monitor) close() {
	_ = m.conn.Close() // an error would mean that it is closed
	<-m.done
}

// execute runs a command; arguments is nil or what encodes to a JSON object. The error is QEMU's *commandError, the context's, or
// that of a session that is over.
func (m *monitor) execute(ctx context.Context, command string, arguments any) error {
	return m.send(ctx, command, arguments, nil)
}

// passFile gives QEMU a duplicate of the file, by which later commands can call it. A command that uses it takes it away.
func (m *monitor) passFile(ctx context.Context, name string, file *os.File) error {
	return m.send(ctx, "getfd", map[string]string{"fdname": name}, file)
}

func (m *monitor) send(ctx context.Context, command string, arguments any, file *os.File) error {
	answer, id := m.expectAnswer()
	defer m.forgetAnswer(id)
	request := struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, arguments, id}
	line, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	if err := m.write(ctx, append(line, '\n'), file); err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	if err := m.awaitAnswer(ctx, answer); err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	return nil
}

func (m *monitor) awaitAnswer(ctx context.Context, answer <-chan error) error {
	select {
	case err := <-answer:
		return err
	case <-m.done:
		select {
		case err := <-answer: // to quit, it is QEMU's last line
			return err
		default:
			return m.err
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write sends one line, with a file beside it if there is one. A line that could not be sent whole ends the session.
func (m *monitor) write(ctx context.Context, line []byte, file *os.File) error {
	select {
	case m.writing <- struct{}{}:
		defer func() { <-m.writing }()
	case <-m.done:
		return m.err
	case <-ctx.Done():
		return ctx.Err()
	}
	var rights []byte
	if file != nil {
		rights = unix.UnixRights(int(file.Fd()))
	}
	_ = m.conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // fails only on a closed connection, as the write then does
	if _, _, err := m.conn.WriteMsgUnix(line, rights, nil); err != nil {
		m.close()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		return m.err // QEMU has ended the session, which the reader may have noticed first
	}
	return nil
}

func (m *monitor) expectAnswer() (<-chan error, uint64) {
	answer := make(chan error, 1)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastID++
	m.pending[m.lastID] = answer
	return answer, m.lastID
}

func (m *monitor) forgetAnswer(id uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pending, id)
}

// expectation waits for one event.
type expectation struct {
	monitor *monitor
	match   func(event) bool
	matched chan event // holds the first that matched
}

// expect has to be called before the command that causes the event. match is called by the reader and must not block. The caller
// forgets the expectation at the end.
func (m *monitor) expect(match func(event) bool) *expectation {
	e := &expectation{monitor: m, match: match, matched: make(chan event, 1)}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expected[e] = struct{}{}
	return e
}

// wait returns the event.
func (e *expectation) wait(ctx context.Context) (event, error) {
	select {
	case event := <-e.matched:
		return event, nil
	case <-e.monitor.done:
		if event, ok := e.seen(); ok {
			return event, nil
		}
		return event{}, e.monitor.err
	case <-ctx.Done():
		return event{}, ctx.Err()
	}
}

// seen returns the event if it has come.
func (e *expectation) seen() (event, bool) {
	select {
	case event := <-e.matched:
		return event, true
	default:
		return event{}, false
	}
}

func (e *expectation) forget() {
	e.monitor.mu.Lock()
	defer e.monitor.mu.Unlock()
	delete(e.monitor.expected, e)
}

// read is the session's only reader.
func (m *monitor) read() {
	defer close(m.done)
	lines := bufio.NewScanner(m.conn)
	lines.Buffer(nil, maxLine)
	greeted := false
	for lines.Scan() {
		var line message
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			m.err = fmt.Errorf("QMP: a line that is not of the protocol: %w", err)
			_ = m.conn.Close()
			return
		}
		switch {
		case line.Greeting != nil && !greeted:
			greeted = true
			close(m.greeting)
		case line.Event != "":
			m.distribute(line)
		default:
			m.answer(line)
		}
	}
	m.err = errMonitorClosed
	if err := lines.Err(); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		m.err = fmt.Errorf("%w: %w", errMonitorClosed, err)
	}
	_ = m.conn.Close() // a line too long: QEMU is not to wait for a reader
}

func (m *monitor) distribute(line message) {
	event := event{Name: line.Event}
	_ = json.Unmarshal(line.Data, &event) // events that nobody here knows may have fields of other types
	m.mu.Lock()
	defer m.mu.Unlock()
	for e := range m.expected {
		if e.match(event) {
			delete(m.expected, e)
			e.matched <- event
		}
	}
}

func (m *monitor) answer(line message) {
	m.mu.Lock()
	waiting, found := m.pending[line.ID]
	delete(m.pending, line.ID)
	m.mu.Unlock()
	switch {
	case !found: // its caller gave up
	case line.Error != nil:
		waiting <- line.Error
	default:
		waiting <- nil
	}
}
