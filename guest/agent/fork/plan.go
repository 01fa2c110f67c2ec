package fork

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Plan is the list of what a process does before it is a program. Make it with New and give it up with Close.
//
// What goes wrong while it is made is remembered, and said by Start and Proceed: while the process waits, steps can be added.
type Plan struct {
	memory []byte // shared with the process
	*list         // at the beginning of memory; then comes what the calls point to
	names  []string
	layout *layout
	used   int      // of memory
	ours   *os.File // our end of the connection to the process
	theirs int      // the process's, which is closed when it is a program
	pid    *int32   // where the process's id is written that another has made: Divide
	err    error
}

// list is the calls, of which there are so many.
type list struct {
	count int
	calls [maxCalls]call
}

// call is a system call to be made. Its layout is no other program's business.
type call struct {
	number uintptr
	args   [6]uintptr
	least  uintptr // the least result that is no failure
	next   outcome
	errno  syscall.Errno // written by the process: why the call has failed
}

// outcome is how the list goes on after a call.
type outcome uintptr

const (
	must   outcome = iota // a failure ends the process
	may                   // a failure is of no account
	try                   // after a failure there is the next call; a success has none
	divide                // the call makes another process, which goes on in this one's place
)

const (
	// maxCalls is far more than a program's start takes: a hundred.
	maxCalls = 512
	// slack is room for what calls point to beside texts, in bytes.
	slack = 64 << 10
)

// New makes an empty plan with room for texts of that many bytes in all. It is for a thread that sees this program's /proc.
func New(room int) *Plan {
	p := &Plan{used: int(unsafe.Sizeof(list{})), theirs: -1}
	if p.err = p.open(slack + room); p.err != nil {
		p.err = fmt.Errorf("prepare a new process: %w", p.err)
		return p
	}
	p.Call("unblock signals", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, p.Bytes(make([]byte, sizeofSigset)), 0, sizeofSigset)
	return p
}

// open makes the plan's memory and connection.
func (p *Plan) open(room int) (err error) {
	if p.layout, err = lasting(); err != nil {
		return err
	}
	size := (p.used + room + pageSize - 1) / pageSize * pageSize
	p.memory, err = unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	p.list = (*list)(unsafe.Pointer(&p.memory[0]))
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	p.theirs = ends[1]
	if err := unix.SetNonblock(ends[0], true); err != nil {
		return errors.Join(err, unix.Close(ends[0]))
	}
	p.ours = os.NewFile(uintptr(ends[0]), "process")
	return nil
}

// Close gives up what the plan is made of. A process that is held by it then ends; one that is a program has nothing to do with it.
func (p *Plan) Close() {
	if p.ours != nil {
		p.ours.Close()
	}
	p.closeTheirs()
	if p.memory != nil {
		_ = unix.Munmap(p.memory)
		p.memory, p.list = nil, nil
	}
}

func (p *Plan) closeTheirs() {
	if p.theirs >= 0 {
		unix.Close(p.theirs)
		p.theirs = -1
	}
}

// room takes a piece of the memory, aligned for a word. Without enough it returns nil.
func (p *Plan) room(size int) unsafe.Pointer {
	const word = int(unsafe.Sizeof(uintptr(0)))
	at := (p.used + word - 1) / word * word
	if p.err == nil && (size < 0 || size > len(p.memory)-at) {
		p.err = fmt.Errorf("a new process's arguments: %w", unix.E2BIG)
	}
	if p.err != nil {
		return nil
	}
	p.used = at + size
	return unsafe.Pointer(unsafe.SliceData(p.memory[at:]))
}

// Bytes copies bytes to where a call's argument may point to them.
func (p *Plan) Bytes(content []byte) uintptr {
	at := p.room(len(content))
	if at != nil {
		copy(unsafe.Slice((*byte)(at), len(content)), content)
	}
	return uintptr(at)
}

// Text is Bytes for a string, which ends with a zero. A string that has one inside is an error: EINVAL.
func (p *Plan) Text(text string) uintptr {
	content, err := unix.ByteSliceFromString(text)
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("%q: %w", text, err)
	}
	return p.Bytes(content)
}

// Texts are strings as execve(2) takes them.
func (p *Plan) Texts(texts []string) uintptr {
	at := p.room((len(texts) + 1) * int(unsafe.Sizeof(uintptr(0))))
	for i, text := range texts {
		pointer := p.Text(text)
		if p.err == nil {
			unsafe.Slice((*uintptr)(at), len(texts))[i] = pointer
		}
	}
	return uintptr(at)
}

// add adds a call to the list.
func (p *Plan) add(name string, number uintptr, next outcome, least uintptr, args ...uintptr) {
	if p.err != nil {
		return
	}
	if p.count == maxCalls {
		p.err = fmt.Errorf("a new process's calls: %w", unix.E2BIG)
		return
	}
	c := call{number: number, next: next, least: least}
	copy(c.args[:], args)
	p.calls[p.count] = c
	p.count++
	p.names = append(p.names, name)
}

// Call adds a system call that has to succeed. The name is what is said of it if it fails.
func (p *Plan) Call(name string, number uintptr, args ...uintptr) {
	p.add(name, number, must, 0, args...)
}

// CallIfPossible adds a system call whose failure is of no account.
func (p *Plan) CallIfPossible(number uintptr, args ...uintptr) { p.add("", number, may, 0, args...) }

// Streams makes the process's standard streams of descriptors of this process's, and closes its others but for those to be kept until it
// is a program. It is the plan's first step.
func (p *Plan) Streams(streams [3]int, keep ...int) {
	for target, fd := range streams {
		if fd <= 2 && p.err == nil {
			p.err = fmt.Errorf("standard stream %d: %w", fd, unix.EBADF)
		}
		p.Call("standard streams", unix.SYS_DUP3, uintptr(fd), uintptr(target), 0)
	}
	first := 3
	for _, fd := range append(slices.Sorted(slices.Values(append(keep, p.theirs))), math.MaxInt32) {
		if fd > first {
			p.Call("close descriptors", unix.SYS_CLOSE_RANGE, uintptr(first), uintptr(fd-1), 0)
		}
		first = max(first, fd+1)
	}
}

// Hold has the process wait for Proceed.
func (p *Plan) Hold() {
	word := p.Bytes([]byte{0})
	p.add("say that it waits", unix.SYS_WRITE, must, 1, uintptr(p.theirs), word, 1)
	p.add("wait", unix.SYS_READ, must, 1, uintptr(p.theirs), word, 1)
}

// Divide has the process make another one, which goes on in its place, with the flags of clone3(2), as a child of this process's, too.
func (p *Plan) Divide(flags uint64) {
	if p.pid = (*int32)(p.room(int(unsafe.Sizeof(*p.pid)))); p.pid == nil {
		return
	}
	arguments := cloneArgs{flags: flags | unix.CLONE_PARENT | unix.CLONE_PARENT_SETTID, parentTID: uint64(uintptr(unsafe.Pointer(p.pid)))}
	at := p.Bytes(unsafe.Slice((*byte)(unsafe.Pointer(&arguments)), unsafe.Sizeof(arguments)))
	p.add("fork", unix.SYS_CLONE3, divide, 0, at, unsafe.Sizeof(arguments))
}

// Exec makes the process a program: the first of the files that can be executed. It is the plan's last step.
func (p *Plan) Exec(files, args, env []string) {
	argv, envp := p.Texts(args), p.Texts(env)
	for _, file := range files {
		p.add(file, unix.SYS_EXECVE, try, 0, p.Text(file), argv, envp)
	}
}
