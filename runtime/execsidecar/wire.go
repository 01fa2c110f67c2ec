package execsidecar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime/exitcode"
)

// Limits of datagrams, in bytes.
const (
	// maxCommand is more than the kernel's usual buffer of a socket (net.core.wmem_default, 208 KiB) lets a client send at once.
	maxCommand = 1 << 20
	maxRequest = 12
	maxSignal  = 4
	maxResult  = 8
	// maxMessage bounds the text of a Started, and maxStarted all of it.
	maxMessage = 4 << 10
	maxStarted = maxMessage + 17
)

// maxDescriptors is how many come with a command: one for each standard stream.
const maxDescriptors = 3

// errMalformed is what datagrams are refused with.
var errMalformed = errors.New("malformed datagram")

// The variants of a request, and of a Result.
const (
	requestStop uint32 = iota
	requestExec
)

// Startup says how a command is started. Its values can be combined.
type Startup uint32

// The ways of starting.
const (
	// JoinGroup has the command join the process group Command.Group, if that is not 0.
	JoinGroup Startup = 1 << iota
	// NewSession has it lead a session of its own.
	NewSession
	// DetachTerminal leaves it without a controlling terminal.
	DetachTerminal
	// IgnoreHangUp would have it ignore SIGHUP. No server of limpet does it.
	IgnoreHangUp

	knownStartup = JoinGroup | NewSession | DetachTerminal | IgnoreHangUp
)

// Streams are the standard streams for which a descriptor comes with the command, in this order; the others are /dev/null.
type Streams uint32

// The streams.
const (
	Stdin Streams = 1 << iota
	Stdout
	Stderr

	knownStreams = Stdin | Stdout | Stderr
)

// Keep is the user or group of a Command that keeps the server's, as every negative one does.
const Keep int32 = -1

// Command is what a client asks to be run.
type Command struct {
	Program string
	Args    []string // without the program's name
	Dir     string   // empty: the server's
	Env     []Variable
	Startup Startup
	Streams Streams // set by Run
	Group   int32   // see JoinGroup
	UID     int32   // Keep: the server's
	GID     int32   // Keep: the server's
	// DeathSignal is sent to the command when the server dies; 0: none.
	DeathSignal int32
	// HangUpSignal is sent when the client is gone; what is no signal stands for SIGKILL.
	HangUpSignal int32
}

// NewCommand returns a command of which nothing is asked but to be run, and not to outlive its client or server.
func NewCommand(program string, args ...string) Command {
	return Command{
		Program: program, Args: args, UID: Keep, GID: Keep,
		DeathSignal: int32(unix.SIGKILL), HangUpSignal: int32(unix.SIGKILL),
	}
}

// Variable is one of the environment, set on top of what the server gives its commands.
type Variable struct{ Name, Value string }

// ParseVariable reads NAME=VALUE.
func ParseVariable(text string) (Variable, error) {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return Variable{}, fmt.Errorf("%q is no variable: want NAME=VALUE", text)
	}
	return Variable{name, value}, nil
}

// Started answers a Command.
type Started struct {
	OK      bool
	Message string     // why not
	Errno   unix.Errno // 0 if OK
	PID     int32      // -1 if not OK
}

// ResultKind says what is known of an end.
type ResultKind uint32

// The kinds of ends.
const (
	ResultUnknown ResultKind = iota
	ResultExited
	ResultSignaled
)

// Result is how a command ended.
type Result struct {
	Kind  ResultKind
	Value int32 // exit code, or the signal's number
}

// exitUnknown is the exit code of a command whose end is not known.
const exitUnknown = 127

// ExitCode is what a shell would say of it: 0 to 255, 128+n for signal n.
func (r Result) ExitCode() int {
	switch r.Kind {
	case ResultExited:
		return int(r.Value & 0xff)
	case ResultSignaled:
		return int((exitcode.Signal + r.Value) & 0xff)
	default:
		return exitUnknown
	}
}

func appendUint32(b []byte, n uint32) []byte { return binary.LittleEndian.AppendUint32(b, n) }

func appendInts(b []byte, numbers ...int32) []byte {
	for _, n := range numbers {
		b = appendUint32(b, uint32(n))
	}
	return b
}

func appendLength(b []byte, n int) []byte { return binary.LittleEndian.AppendUint64(b, uint64(n)) }

func appendText(b []byte, text string) []byte { return append(appendLength(b, len(text)), text...) }

// request is the first datagram of a connection.
type request struct {
	stop bool
	size uint64 // of the command in the next datagram, if it is no stop
}

func (r request) encode() []byte {
	if r.stop {
		return appendUint32(nil, requestStop)
	}
	return binary.LittleEndian.AppendUint64(appendUint32(nil, requestExec), r.size)
}

func decodeRequest(data []byte) (request, error) {
	d := decoder{rest: data}
	var r request
	switch variant := d.uint32(); variant {
	case requestStop:
		r.stop = true
	case requestExec:
		r.size = d.uint64()
	default:
		d.fail("request %d is not known", variant)
	}
	if r.size > maxCommand {
		d.fail("a command of %d bytes: at most %d", r.size, maxCommand)
	}
	return r, d.end()
}

// encode fails on what no server would take.
func (c Command) encode() ([]byte, error) {
	b := appendText(nil, c.Program)
	b = appendLength(b, len(c.Args))
	for _, arg := range c.Args {
		b = appendText(b, arg)
	}
	b = appendText(b, c.Dir)
	b = appendLength(b, len(c.Env))
	for _, variable := range c.Env {
		b = appendText(appendText(b, variable.Name), variable.Value)
	}
	b = appendUint32(appendUint32(b, uint32(c.Startup)), uint32(c.Streams))
	b = appendInts(b, c.Group, c.UID, c.GID, c.DeathSignal, c.HangUpSignal)
	_, err := decodeCommand(b)
	return b, err
}

func decodeCommand(data []byte) (Command, error) {
	d := decoder{rest: data}
	c := Command{Program: d.text()}
	for range d.length(8) {
		c.Args = append(c.Args, d.text())
	}
	c.Dir = d.text()
	for range d.length(16) {
		c.Env = append(c.Env, Variable{d.text(), d.text()})
	}
	c.Startup, c.Streams = Startup(d.uint32()), Streams(d.uint32())
	for _, n := range []*int32{&c.Group, &c.UID, &c.GID, &c.DeathSignal, &c.HangUpSignal} {
		*n = d.int32()
	}
	switch {
	case len(data) > maxCommand:
		d.fail("a command of %d bytes: at most %d", len(data), maxCommand)
	case d.err == nil && c.Program == "":
		d.fail("a command without a program")
	case c.Startup&^knownStartup != 0:
		d.fail("startup %#x", uint32(c.Startup))
	case c.Streams&^knownStreams != 0:
		d.fail("streams %#x", uint32(c.Streams))
	}
	for _, variable := range c.Env {
		if variable.Name == "" || strings.Contains(variable.Name, "=") {
			d.fail("a variable of the environment has the name %q", variable.Name)
		}
	}
	return c, d.end()
}

func (s Started) encode() []byte {
	b := []byte{0}
	if s.OK {
		b[0] = 1
	}
	return appendInts(appendText(b, s.Message), int32(s.Errno), s.PID)
}

func decodeStarted(data []byte) (Started, error) {
	d := decoder{rest: data}
	s := Started{OK: d.bool(), Message: d.text(), Errno: unix.Errno(d.int32()), PID: d.int32()}
	return s, d.end()
}

// signal is a signal's number; negative: for the command's process group.
func encodeSignal(signal int32) []byte { return appendInts(nil, signal) }

func decodeSignal(data []byte) (int32, error) {
	d := decoder{rest: data}
	signal := d.int32()
	return signal, d.end()
}

func (r Result) encode() []byte {
	b := appendUint32(nil, uint32(r.Kind))
	if r.Kind != ResultUnknown {
		b = appendInts(b, r.Value)
	}
	return b
}

func decodeResult(data []byte) (Result, error) {
	d := decoder{rest: data}
	r := Result{Kind: ResultKind(d.uint32())}
	switch r.Kind {
	case ResultUnknown:
	case ResultExited, ResultSignaled:
		r.Value = d.int32()
	default:
		d.fail("result %d is not known", r.Kind)
	}
	return r, d.end()
}

// decoder reads a datagram from its front. After the first error it reads zeros.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", errMalformed, fmt.Sprintf(format, args...))
		d.rest = nil
	}
}

// end fails if there is more than what was read.
func (d *decoder) end() error {
	if len(d.rest) > 0 {
		d.fail("%d bytes too many", len(d.rest))
	}
	return d.err
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.fail("%d bytes where %d are left", n, len(d.rest))
		return nil
	}
	taken := d.rest[:n]
	d.rest = d.rest[n:]
	return taken
}

func (d *decoder) uint32() uint32 {
	b := d.take(4)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint32(b)
}

func (d *decoder) int32() int32 { return int32(d.uint32()) }

func (d *decoder) uint64() uint64 {
	b := d.take(8)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

func (d *decoder) bool() bool {
	b := d.take(1)
	if b != nil && b[0] > 1 {
		d.fail("a truth of %d", b[0])
	}
	return b != nil && b[0] == 1
}

// length reads that of a list whose elements have at least size bytes.
func (d *decoder) length(size uint64) uint64 {
	n := d.uint64()
	if n > uint64(len(d.rest))/size {
		d.fail("%d elements in %d bytes", n, len(d.rest))
		return 0
	}
	return n
}

// text reads one that can be a part of a command: no program could be given a zero byte.
func (d *decoder) text() string {
	b := d.take(d.uint64())
	if !utf8.Valid(b) {
		d.fail("a text that is not UTF-8")
		return ""
	}
	text := string(b)
	if strings.ContainsRune(text, 0) {
		d.fail("a text with a zero byte")
		return ""
	}
	return text
}
