package execsidecar

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const testTimeout = 20 * time.Second

// pair returns both ends of a connection.
func pair(t *testing.T) (client, server *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		conn, err := net.FileConn(file)
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		ends[i] = conn.(*net.UnixConn)
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(testTimeout)); err != nil {
			t.Fatal(err)
		}
	}
	return ends[0], ends[1]
}

// fakeProcess is a Process that ends when the test says so, or by SIGKILL.
type fakeProcess struct {
	command Command
	files   Files
	ended   chan Result

	mu      sync.Mutex
	signals []int32 // negative: to its group
	hungUp  unix.Signal
	closed  bool
	heard   chan struct{} // gets a token for each signal
}

func (p *fakeProcess) PID() int { return 42 }

func (p *fakeProcess) Signal(signal unix.Signal, group bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	number := int32(signal)
	if group {
		number = -number
	}
	p.signals = append(p.signals, number)
	p.heard <- struct{}{}
	return nil
}

func (p *fakeProcess) HangUp(signal unix.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hungUp == 0 {
		p.hungUp = signal
	}
	select {
	case p.ended <- Result{ResultSignaled, int32(signal)}:
	default:
	}
	return nil
}

func (p *fakeProcess) Wait() Result { return <-p.ended }

func (p *fakeProcess) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
}

// service is a server of one client, with a fake behind it.
type service struct {
	*testing.T
	client  *net.UnixConn
	process *fakeProcess
	started chan struct{}      // closed when the Starter was called
	hangUp  context.CancelFunc // ends the server's context

	done chan struct{} // closed when Serve has returned the following
	stop bool
	err  error
}

func newService(t *testing.T, patience time.Duration) *service {
	return newFailingService(t, patience, nil)
}

// newFailingService starts nothing if there is an error.
func newFailingService(t *testing.T, patience time.Duration, fail error) *service {
	client, server := pair(t)
	s := &service{
		T: t, client: client, process: &fakeProcess{ended: make(chan Result, 1), heard: make(chan struct{}, 100)},
		started: make(chan struct{}), done: make(chan struct{}),
	}
	ctx, hangUp := context.WithCancel(t.Context())
	s.hangUp = hangUp
	start := func(_ context.Context, command Command, files Files) (Process, error) {
		defer close(s.started)
		s.process.command, s.process.files = command, files
		if fail != nil {
			files.Close()
			return nil, fail
		}
		return s.process, nil
	}
	go func() {
		defer close(s.done)
		s.stop, s.err = serve(ctx, server, patience, start, slog.New(slog.NewTextHandler(t.Output(), nil)))
		server.Close()
	}()
	t.Cleanup(func() { client.Close(); <-s.done; s.process.files.Close() })
	return s
}

func (s *service) send(data []byte, files ...*os.File) {
	s.Helper()
	if err := send(s.client, data, files...); err != nil {
		s.Fatal(err)
	}
}

// ask sends a command in good order.
func (s *service) ask(command Command, files ...*os.File) {
	s.Helper()
	data, err := command.encode()
	if err != nil {
		s.Fatal(err)
	}
	s.send(request{size: uint64(len(data))}.encode())
	s.send(data, files...)
}

func (s *service) receive() []byte {
	s.Helper()
	data, err := receive(s.client, maxStarted)
	if err != nil {
		s.Fatal(err)
	}
	return data
}

func (s *service) wantStarted() {
	s.Helper()
	if started, err := decodeStarted(s.receive()); err != nil || !started.OK || started.PID != 42 {
		s.Fatalf("%+v, %v", started, err)
	}
	<-s.started
}

// wantRefused wants an answer with that number, and the end.
func (s *service) wantRefused(errno unix.Errno) {
	s.Helper()
	if started, err := decodeStarted(s.receive()); err != nil || started.OK || started.Errno != errno || started.Message == "" {
		s.Errorf("answer %+v, %v; want %v", started, err, errno)
	}
	s.wantEnd()
}

func (s *service) wantEnd() {
	s.Helper()
	if data, err := receive(s.client, maxStarted); !errors.Is(err, io.EOF) && !gone(err) {
		s.Errorf("%x, %v; want the end", data, err)
	}
	<-s.done
}

// pipe returns a pipe's ends, closed with the test.
func pipe(t *testing.T) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close(); write.Close() })
	return read, write
}

// wantClosed closes one end of a pipe and wants that nobody else holds it.
func wantClosed(t *testing.T, read, write *os.File) {
	t.Helper()
	write.Close()
	if err := read.SetReadDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	if n, err := read.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a descriptor is still held: %d, %v", n, err)
	}
}

func TestServe(t *testing.T) {
	s := newService(t, testTimeout)
	read, write := pipe(t)
	command := NewCommand("date", "-u")
	command.Streams = Stdout
	s.ask(command, write)
	s.wantStarted()
	files := s.process.files
	if s.process.command.Program != "date" || files[0] != nil || files[1] == nil || files[2] != nil {
		t.Errorf("started %+v with %v", s.process.command, files)
	}
	if flags, err := unix.FcntlInt(files[1].Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the descriptor is inherited: %#x, %v", flags, err)
	}
	if _, err := files[1].WriteString("now"); err != nil {
		t.Error(err)
	}
	files.Close()
	write.Close()
	if text, err := io.ReadAll(read); string(text) != "now" || err != nil {
		t.Errorf("read %q, %v", text, err)
	}

	for _, signal := range []int32{2, -20, 99, 0, -1 << 31, 28} {
		s.send(encodeSignal(signal))
	}
	for range 3 { // the others are no signals
		<-s.process.heard
	}
	s.process.ended <- Result{ResultExited, 7}
	if result, err := decodeResult(s.receive()); err != nil || result != (Result{ResultExited, 7}) {
		t.Errorf("%+v, %v", result, err)
	}
	s.wantEnd()
	if s.err != nil || s.stop || !slices.Equal(s.process.signals, []int32{2, -20, 28}) || !s.process.closed {
		t.Errorf("%v, stop %t, signals %v, closed %t", s.err, s.stop, s.process.signals, s.process.closed)
	}
}

// TestHangUp has clients go, in different ways, while their commands run.
func TestHangUp(t *testing.T) {
	for _, test := range []struct {
		name   string
		signal int32 // as the command has it
		hangUp func(s *service)
		want   unix.Signal
	}{
		{"gone", 9, func(s *service) { s.client.Close() }, unix.SIGKILL},
		{"with another signal", 15, func(s *service) { s.client.Close() }, unix.SIGTERM},
		{"with none", 0, func(s *service) { s.client.Close() }, unix.SIGKILL},
		{"with no signal at all", 77, func(s *service) { s.client.Close() }, unix.SIGKILL},
		{"a short signal", 9, func(s *service) { s.send([]byte{15, 0}) }, unix.SIGKILL},
		{"a long signal", 9, func(s *service) { s.send([]byte{15, 0, 0, 0, 0}) }, unix.SIGKILL},
		{"a signal of nothing", 9, func(s *service) { s.send(nil) }, unix.SIGKILL},
		{"the server ends", 15, func(s *service) { s.hangUp() }, unix.SIGKILL},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newService(t, testTimeout)
			command := NewCommand("sleep")
			command.HangUpSignal = test.signal
			s.ask(command)
			s.wantStarted()
			test.hangUp(s)
			<-s.done
			if s.process.hungUp != test.want || !s.process.closed {
				t.Errorf("hung up with %v, closed %t", s.process.hungUp, s.process.closed)
			}
		})
	}
}

// TestHangUpDuringStart has the client gone before its command runs.
func TestHangUpDuringStart(t *testing.T) {
	s := newService(t, testTimeout)
	s.ask(NewCommand("sleep"))
	s.client.Close()
	<-s.done
	if s.process.hungUp != unix.SIGKILL || !s.process.closed {
		t.Errorf("hung up with %v, closed %t", s.process.hungUp, s.process.closed)
	}
}

func TestServeRefuses(t *testing.T) {
	good, err := NewCommand("true").encode()
	if err != nil {
		t.Fatal(err)
	}
	with := func(streams Streams) []byte {
		command := NewCommand("true")
		command.Streams = streams
		data, err := command.encode()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	header := func(size int) []byte { return request{size: uint64(size)}.encode() }
	for _, test := range []struct {
		name        string
		request     []byte
		command     []byte // nil: not sent
		descriptors int
	}{
		{"an unknown request", []byte{9, 0, 0, 0}, nil, 0},
		{"a long request", append(header(len(good)), 0), nil, 0},
		{"a request with descriptors", append(header(len(good)), 0), nil, 1},
		{"a huge command", header(maxCommand + 1), nil, 0},
		{"a longer command than announced", header(len(good) - 1), good, 0},
		{"a command with too much", header(len(good) + 1), append(slices.Clone(good), 0), 0},
		{"a shorter command", header(len(good)), good[:len(good)-1], 0},
		{"a wrong command", header(len(good)), slices.Repeat([]byte{0xff}, len(good)), 0},
		{"a wrong command with descriptors", header(len(good)), slices.Repeat([]byte{0xff}, len(good)), 3},
		{"descriptors for no stream", header(len(good)), good, 1},
		{"too few descriptors", header(len(good)), with(Stdin | Stdout | Stderr), 2},
		{"no descriptors", header(len(good)), with(Stdin), 0},
		{"too many descriptors", header(len(good)), with(Stdin | Stdout | Stderr), 4},
		{"far too many descriptors", header(len(good)), with(Stdin | Stdout | Stderr), 100},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newService(t, testTimeout)
			read, write := pipe(t)
			descriptors := slices.Repeat([]*os.File{write}, test.descriptors)
			if test.command == nil {
				s.send(test.request, descriptors...)
			} else {
				s.send(test.request)
				s.send(test.command, descriptors...)
			}
			s.wantRefused(unix.EINVAL)
			if s.err == nil {
				t.Error("nothing to log")
			}
			wantClosed(t, read, write)
		})
	}
}

// TestServeSilence has a client that connects and says nothing, or half of it.
func TestServeSilence(t *testing.T) {
	const patience = 20 * time.Millisecond
	for name, said := range map[string][]byte{"nothing": nil, "a request": request{size: 10}.encode()} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, patience)
			if said != nil {
				s.send(said)
			}
			s.wantRefused(unix.EIO)
		})
	}
}

func TestServeNotStarted(t *testing.T) {
	for _, test := range []struct {
		err  error
		want unix.Errno
	}{
		{&StartError{Errno: unix.ENOENT, Message: "no program"}, unix.ENOENT},
		{&os.PathError{Op: "exec", Path: "/x", Err: unix.EACCES}, unix.EACCES},
		{errors.New("no number"), unix.EIO},
	} {
		s := newFailingService(t, testTimeout, test.err)
		s.ask(NewCommand("true"))
		s.wantRefused(test.want)
	}
}

func TestServeStop(t *testing.T) {
	s := newService(t, testTimeout)
	s.send(request{stop: true}.encode())
	s.wantEnd()
	if !s.stop || s.err != nil {
		t.Errorf("stop %t, %v", s.stop, s.err)
	}
}
