package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/guest/protocol"
)

// streamBuffer is the size of one copy between a stream and its end on the host: what a pipe holds, so that one write can fill it
// and one read empty it.
const streamBuffer = 64 << 10

// cutGrace is how long it may take to read what has come to the host before its guest was gone.
const cutGrace = 100 * time.Millisecond

// lostDrain is how long is waited for a reader to take that: one that keeps up has it by the end of cutGrace.
const lostDrain = 2 * cutGrace

// streamBuffers are reused: a busy host starts execs all the time.
var streamBuffers = sync.Pool{New: func() any { return new([streamBuffer]byte) }}

// IO is where a process's standard streams end on the host; nil: no such stream. The process owns them from the call on to which
// they are given, and closes each when its stream is over. Close must end a Read or Write that waits.
type IO struct {
	Stdin          io.ReadCloser
	Stdout, Stderr io.WriteCloser
	// Terminal says that the process gets a terminal: Stdin is its input, Stdout its output, Stderr is not used.
	Terminal bool
}

// close closes what is there.
func (i IO) close() {
	if i.Stdin != nil {
		i.Stdin.Close()
	}
	for _, writer := range []io.WriteCloser{i.Stdout, i.Stderr} {
		if writer != nil {
			writer.Close()
		}
	}
}

// streams joins a process's standard streams to their ends on the host, one kept stream for each.
type streams struct {
	stdin  *input
	stdout *output
	stderr *output
}

// onOutput has first called once, when the first byte of any output has been passed on. It is set before the streams are opened.
func (s *streams) onOutput(first func()) {
	first = sync.OnceFunc(first)
	for _, output := range s.outputs() {
		output.first = first
	}
}

func newStreams(ends IO) *streams {
	var s streams
	if ends.Stdin != nil {
		s.stdin = newInput(ends.Stdin)
	}
	if ends.Stdout != nil {
		s.stdout = newOutput(ends.Stdout)
	}
	if ends.Stderr != nil && ends.Terminal {
		ends.Stderr.Close()
	} else if ends.Stderr != nil {
		s.stderr = newOutput(ends.Stderr)
	}
	return &s
}

// outputs are the streams that there are from the guest.
func (s *streams) outputs() []*output {
	var outputs []*output
	for _, output := range []*output{s.stdout, s.stderr} {
		if output != nil {
			outputs = append(outputs, output)
		}
	}
	return outputs
}

// tokens name the streams to the agent.
func (s *streams) tokens() *protocol.Streams {
	tokens := protocol.Streams{Kept: true}
	if s.stdin != nil {
		tokens.Stdin = &s.stdin.token
	}
	if s.stdout != nil {
		tokens.Stdout = &s.stdout.token
	}
	if s.stderr != nil {
		tokens.Stderr = &s.stderr.token
	}
	return &tokens
}

// open dials every output, at the same time, and lets the bytes flow. The input is dialed when there is some, or its end: most processes
// are given none, and each connection is work for the guest while it starts the process.
func (s *streams) open(ctx context.Context, guest Guest) error {
	if s.stdin != nil {
		s.stdin.start(func(ctx context.Context) (client.InputStream, error) { return guest.OpenInput(ctx, s.stdin.token) })
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, output := range s.outputs() {
		group.Go(func() error {
			conn, err := guest.OpenOutput(ctx, output.token)
			if err != nil {
				return fmt.Errorf("open stream of output: %w", err)
			}
			output.start(conn)
			return nil
		})
	}
	return group.Wait()
}

// end tells an output how many bytes it carries in all.
func (s *streams) end(stream string, bytes uint64) {
	switch {
	case stream == "stdout" && s.stdout != nil:
		s.stdout.end(bytes)
	case stream == "stderr" && s.stderr != nil:
		s.stderr.end(bytes)
	}
}

// closeInput ends the process's input: nobody reads it any more.
func (s *streams) closeInput() {
	if s.stdin != nil {
		s.stdin.close()
	}
}

// cut ends the outputs because the guest is gone.
func (s *streams) cut() {
	for _, output := range s.outputs() {
		output.cut()
	}
}

// drain waits, at most for the given time, until what the outputs carry has been delivered: those whose ends are known, or all
// that were opened.
func (s *streams) drain(ctx context.Context, limit time.Duration, all bool) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s.drainUntil(ctx, all)
}

// drainUntil is drain until the context ends.
func (s *streams) drainUntil(ctx context.Context, all bool) {
	for _, output := range s.outputs() {
		if opened, known := output.progress(); !opened || !known && !all {
			continue
		}
		select {
		case <-output.done:
		case <-ctx.Done():
		}
	}
}

// close ends everything at once; what was not delivered is lost.
func (s *streams) close() {
	s.closeInput()
	for _, output := range s.outputs() {
		output.close()
	}
}

// input carries bytes from the host to the guest.
type input struct {
	token  protocol.Token
	source io.ReadCloser
	open   context.Context // ends when the input is closed
	cancel context.CancelFunc
	dial   func(context.Context) (client.InputStream, error) // set by start

	mu     sync.Mutex
	conn   client.InputStream // nil while there is nothing to carry
	ended  bool               // the source gives no more
	closed bool
}

func newInput(source io.ReadCloser) *input {
	open, cancel := context.WithCancel(context.Background())
	return &input{token: protocol.NewToken(), source: source, open: open, cancel: cancel}
}

// start lets the bytes flow, over what dial opens when there are some.
func (i *input) start(dial func(context.Context) (client.InputStream, error)) {
	i.dial = dial
	go i.pump()
}

// pump copies until either side ends.
func (i *input) pump() {
	defer i.end()
	buffer := streamBuffers.Get().(*[streamBuffer]byte)
	defer streamBuffers.Put(buffer)
	for {
		n, err := i.source.Read(buffer[:])
		if n > 0 {
			conn, err := i.connect()
			if err != nil {
				return // there is no process that would read it
			}
			if _, err := conn.Write(buffer[:n]); err != nil {
				return // the guest reads no more
			}
		}
		if err != nil {
			return
		}
	}
}

// connect dials the first time. Only the pump calls it.
func (i *input) connect() (client.InputStream, error) {
	i.mu.Lock()
	conn := i.conn
	i.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	conn, err := i.dial(i.open)
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		conn.Close()
		return nil, os.ErrClosed
	}
	i.conn = conn
	return conn, nil
}

// end ends the guest's input after what it was sent.
func (i *input) end() {
	i.mu.Lock()
	if i.ended || i.closed {
		i.mu.Unlock()
		return
	}
	i.ended = true
	i.source.Close()
	i.mu.Unlock()
	if conn, err := i.connect(); err == nil {
		_ = conn.CloseWrite() // the guest reads no more
	}
}

// close ends the input, which the guest reads no more.
func (i *input) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return
	}
	i.closed = true
	i.cancel()
	if !i.ended {
		i.source.Close()
	}
	if i.conn != nil {
		i.conn.Close()
	}
}

// output carries bytes from the guest to the host. The guest never closes it first, because not every backend of vsock would
// then deliver what is on its way: it says how many bytes there are in all, and the host closes after those.
type output struct {
	token protocol.Token
	sink  io.WriteCloser
	done  chan struct{} // closed when nothing more will be delivered
	first func()        // called when bytes have been passed on

	mu     sync.Mutex
	conn   client.OutputStream // nil before start
	closed bool
	known  bool
	total  uint64 // if known
	lost   bool   // the guest is gone
}

func newOutput(sink io.WriteCloser) *output {
	return &output{token: protocol.NewToken(), sink: sink, done: make(chan struct{}), first: func() {}}
}

func (o *output) start(conn client.OutputStream) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		conn.Close()
		return
	}
	o.conn = conn
	go o.pump(conn)
}

// end says how many bytes the stream carries. A read that waits for more is woken, to see whether there is more to come.
func (o *output) end(total uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known {
		return
	}
	o.known, o.total = true, total
	if o.conn != nil {
		_ = o.conn.SetReadDeadline(time.Unix(1, 0)) // in the past; fails only on a closed connection, whose read fails too
	}
}

// progress tells whether the stream was opened and whether its end is known.
func (o *output) progress() (opened, known bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.conn != nil, o.known
}

// cut ends the stream where the guest is gone: what is on the host already is still delivered. Not every backend of vsock ends its
// connections then.
func (o *output) cut() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lost = true
	if o.conn != nil {
		_ = o.conn.SetReadDeadline(time.Now().Add(cutGrace))
	}
}

// complete tells whether count bytes are all there are.
func (o *output) complete(count uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.known && count >= o.total
}

// woken tells, after a deadline has ended a read, whether to stop reading. If not, it takes the deadline back.
func (o *output) woken(count uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.lost || o.closed || o.known && count >= o.total {
		return true
	}
	_ = o.conn.SetReadDeadline(time.Time{})
	return false
}

// pump copies until the stream has ended. If nobody takes the bytes any more they are thrown away, so that the process is not
// held up by it.
func (o *output) pump(conn client.OutputStream) {
	defer o.close()
	buffer := streamBuffers.Get().(*[streamBuffer]byte)
	defer streamBuffers.Put(buffer)
	var count uint64
	var refused bool
	for !o.complete(count) {
		n, err := conn.Read(buffer[:])
		count += uint64(n)
		if n > 0 && !refused {
			_, writeErr := o.sink.Write(buffer[:n])
			refused = writeErr != nil
			o.first()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if o.woken(count) {
				return
			}
			continue
		}
		if err != nil {
			return
		}
	}
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	o.closed = true
	o.sink.Close()
	if o.conn != nil {
		o.conn.Close()
	}
	close(o.done)
}
