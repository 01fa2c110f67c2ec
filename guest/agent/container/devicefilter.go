package container

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Which devices a control group may use is for a BPF program to say, which the kernel asks at each opening and making of a device node. It
// is given access, type and numbers (struct bpf_cgroup_dev_ctx) and answers 1 or 0. A dozen kinds of instructions are all that it takes.

// instruction is one of BPF's: Linux, Documentation/bpf/standardization/instruction-set.rst.
type instruction struct {
	code      uint8
	registers uint8 // the target in the lower half, the source in the upper
	offset    int16
	value     int32
}

// instructionSize is an instruction's size in a program, in bytes.
const instructionSize = 8

// usualDeviceRules are what every container may do whatever its specification says, as with other OCI runtimes: make any node, and use the
// usual devices, terminals and network tunnels.
var usualDeviceRules = []specs.LinuxDeviceCgroup{
	rule("c", -1, -1, "m"), rule("b", -1, -1, "m"),
	rule("c", 1, 3, "rwm"), rule("c", 1, 5, "rwm"), rule("c", 1, 7, "rwm"), rule("c", 1, 8, "rwm"), rule("c", 1, 9, "rwm"),
	rule("c", 5, 0, "rwm"), rule("c", 5, 1, "rwm"), rule("c", 5, 2, "rwm"), rule("c", 136, -1, "rwm"), rule("c", 10, 200, "rwm"),
}

func rule(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	return specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Minor: &minor, Access: access}
}

// isUsual tells whether a rule allows nothing but what one of the usual rules does, which comes before it. Without such rules ordinary
// containers have the same program, whoever has written their specification.
func isUsual(r specs.LinuxDeviceCgroup) bool {
	within := func(number, usual *int64) bool { return *usual < 0 || number != nil && *number == *usual }
	return r.Allow && slices.ContainsFunc(usualDeviceRules, func(usual specs.LinuxDeviceCgroup) bool {
		return r.Type == usual.Type && within(r.Major, usual.Major) && within(r.Minor, usual.Minor) && r.Access != "" &&
			strings.Trim(r.Access, usual.Access) == ""
	})
}

// Registers of the program.
const (
	result = iota
	given  // what the kernel gives
	kind
	access
	major
	minor
	scratch
)

// deviceFilter makes the program of a specification's rules, of which the last that fits counts, and of the usual ones, which come first.
// What no rule fits is refused.
func deviceFilter(rules []specs.LinuxDeviceCgroup) ([]instruction, error) {
	program := []instruction{
		{unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W, kind | given<<4, 0, 0},
		{unix.BPF_ALU | unix.BPF_MOV | unix.BPF_X, access | kind<<4, 0, 0},
		{unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, kind, 0, math.MaxUint16},
		{unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K, access, 0, 16},
		{unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W, major | given<<4, 4, 0},
		{unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W, minor | given<<4, 8, 0},
	}
	for _, r := range slices.Backward(slices.Concat(slices.DeleteFunc(slices.Clone(rules), isUsual), usualDeviceRules)) {
		part, err := devicePart(r)
		if err != nil {
			return nil, err
		}
		program = append(program, part...)
		if len(part) == len(answer(0)) { // it fits always: what comes after it would never be reached
			return program, nil
		}
	}
	return append(program, answer(0)...), nil
}

func answer(value int32) []instruction {
	return []instruction{
		{unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K, result, 0, value},
		{unix.BPF_JMP | unix.BPF_EXIT, 0, 0, 0},
	}
}

// deviceKinds and deviceAccess are what the words of a rule mean to the kernel.
var (
	deviceKinds  = map[string]int32{"c": unix.BPF_DEVCG_DEV_CHAR, "u": unix.BPF_DEVCG_DEV_CHAR, "b": unix.BPF_DEVCG_DEV_BLOCK}
	deviceAccess = map[rune]int32{'r': unix.BPF_DEVCG_ACC_READ, 'w': unix.BPF_DEVCG_ACC_WRITE, 'm': unix.BPF_DEVCG_ACC_MKNOD}
)

// devicePart is the program's part for one rule: where the rule does not fit it jumps to what comes next.
func devicePart(r specs.LinuxDeviceCgroup) ([]instruction, error) {
	var part []instruction
	unless := func(code uint8, registers uint8, value int32) {
		part = append(part, instruction{unix.BPF_JMP32 | code, registers, 0, value})
	}
	if r.Type != "" && r.Type != "a" {
		number, ok := deviceKinds[r.Type]
		if !ok {
			return nil, fmt.Errorf("rule for devices of type %q: %w", r.Type, errdefs.ErrInvalidArgument)
		}
		unless(unix.BPF_JNE|unix.BPF_K, kind, number)
	}
	var bits int32
	for _, letter := range r.Access {
		bits |= deviceAccess[letter]
	}
	if bits != unix.BPF_DEVCG_ACC_READ|unix.BPF_DEVCG_ACC_WRITE|unix.BPF_DEVCG_ACC_MKNOD {
		part = append(part, instruction{unix.BPF_ALU | unix.BPF_MOV | unix.BPF_X, scratch | access<<4, 0, 0},
			instruction{unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, scratch, 0, bits})
		unless(unix.BPF_JNE|unix.BPF_X, scratch|access<<4, 0)
	}
	for _, n := range []struct {
		register uint8
		number   *int64
	}{{major, r.Major}, {minor, r.Minor}} {
		switch {
		case n.number == nil || *n.number < 0:
		case *n.number > math.MaxUint32:
			return nil, fmt.Errorf("rule for the device number %d: %w", *n.number, errdefs.ErrInvalidArgument)
		default:
			unless(unix.BPF_JNE|unix.BPF_K, n.register, int32(uint32(*n.number)))
		}
	}
	allow := int32(0)
	if r.Allow {
		allow = 1
	}
	part = append(part, answer(allow)...)
	for i := range part {
		if part[i].code&0x07 == unix.BPF_JMP32 {
			part[i].offset = int16(len(part) - i - 1)
		}
	}
	return part, nil
}

// filterDevices gives the group a program that says which devices may be used in it.
func (g cgroup) filterDevices(program []instruction) error {
	loaded, done, err := loadedFilters.load(program)
	if err != nil {
		return fmt.Errorf("load the rules for devices: %w", err)
	}
	defer done()
	dir, err := os.Open(string(g))
	if err != nil {
		return err
	}
	defer dir.Close()
	attach := struct{ target, program, kind, flags uint32 }{
		uint32(dir.Fd()), uint32(loaded), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI,
	}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attach), unsafe.Sizeof(attach)); err != nil {
		return fmt.Errorf("attach the rules for devices: %w", err)
	}
	return nil
}

// filters are programs that the kernel has been given, by their code, for the next container with the same. To check one is a great deal
// of code of the kernel's.
type filters struct {
	mu   sync.Mutex
	kept map[string]int // descriptors
}

// maxFilters is how many are kept. Ordinary containers have one or two.
const maxFilters = 8

var loadedFilters = filters{kept: map[string]int{}}

// load gives the kernel a program, if it does not have it. done is to be called when the descriptor is not used any more.
func (f *filters) load(program []instruction) (fd int, done func(), err error) {
	var code []byte
	for _, i := range program {
		code = append(code, i.code, i.registers)
		code = binary.NativeEndian.AppendUint16(code, uint16(i.offset))
		code = binary.NativeEndian.AppendUint32(code, uint32(i.value))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if fd, ok := f.kept[string(code)]; ok {
		return fd, func() {}, nil
	}
	if fd, err = loadFilter(code); err != nil {
		return -1, nil, err
	}
	if len(f.kept) == maxFilters {
		return fd, func() { unix.Close(fd) }, nil
	}
	f.kept[string(code)] = fd
	return fd, func() {}, nil
}

func loadFilter(code []byte) (int, error) {
	license := []byte("Apache-2.0\x00")
	load := struct { // the beginning of union bpf_attr
		kind, count   uint32
		code, license uint64
	}{unix.BPF_PROG_TYPE_CGROUP_DEVICE, uint32(len(code) / instructionSize), address(code), address(license)}
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(unsafe.SliceData(code))
	pins.Pin(unsafe.SliceData(license))
	return bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&load), unsafe.Sizeof(load))
}

func address(content []byte) uint64 {
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(content))))
}

func bpf(command uintptr, attribute unsafe.Pointer, size uintptr) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(attribute), size)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
