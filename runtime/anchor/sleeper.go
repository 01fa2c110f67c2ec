package anchor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sleepers holds, for each architecture, the machine code of a program that waits for signals for ever.
var sleepers = map[string]struct {
	machine uint16 // e_machine
	code    []byte
}{
	"amd64": {62, []byte{
		0xb8, 0x22, 0x00, 0x00, 0x00, // mov eax, 34 (pause)
		0x0f, 0x05, //                   syscall
		0xeb, 0xf7, //                   jmp back to the start
	}},
}

// sleeperBase is where the sleeper is mapped: the usual address of a static program.
const sleeperBase = 0x400000

// sleeper returns the smallest ELF program around the architecture's code: its header, one segment, the code.
func sleeper(arch string) ([]byte, error) {
	program, ok := sleepers[arch]
	if !ok {
		return nil, errors.New("no sleeper for " + arch)
	}
	const headers = 64 + 56 // sizes of Elf64_Ehdr and Elf64_Phdr
	size := uint64(headers + len(program.code))
	var file bytes.Buffer
	for _, field := range []any{
		[16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, // 64 bits, little endian, version 1
		uint16(2), program.machine, uint32(1),  // executable
		uint64(sleeperBase + headers), uint64(64), uint64(0), uint32(0), // entry, program headers, no sections, flags
		uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), // PT_LOAD, readable and executable, from the start of the file
		uint64(sleeperBase), uint64(sleeperBase), size, size, uint64(0x1000),
		program.code,
	} {
		if err := binary.Write(&file, binary.LittleEndian, field); err != nil {
			return nil, err
		}
	}
	return file.Bytes(), nil
}

// becomeSleeper replaces this process. It returns only if it could not.
func becomeSleeper() error {
	program, err := sleeper(runtime.GOARCH)
	if err != nil {
		return err
	}
	name := "limpet-anchor"
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 there is no MFD_EXEC, and every memory file may be run
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return err
	}
	if _, err := unix.Write(fd, program); err != nil {
		return err
	}
	argv0, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	var empty byte
	argv, env := []*byte{argv0, nil}, []*byte{nil}
	_, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(&empty)),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&env[0])), unix.AT_EMPTY_PATH, 0)
	return errno
}
