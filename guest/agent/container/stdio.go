package container

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// pipeSize is the capacity asked of a standard stream's pipe, in bytes. With one processor a switch between the process and the pump
// costs more than the copying of the usual 64 KiB.
const pipeSize = 1 << 20

// stdio is the standard streams of a process without a terminal: pipes where the host wants a stream, else /dev/null.
type stdio struct {
	process [3]*os.File // the process's ends of stdin, stdout, stderr
	stdin   *os.File    // our ends; nil: no stream
	outputs [2]*os.File // stdout, stderr
}

// openStdio makes the streams that are wanted, and gives the process's ends to its user: programs open /dev/stdout anew.
func openStdio(streams protocol.Streams, uid, gid uint32) (*stdio, error) {
	io := &stdio{}
	err := func() error {
		wanted := [3]bool{streams.Stdin != nil, streams.Stdout != nil, streams.Stderr != nil}
		for i, want := range wanted {
			if !want {
				null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
				if err != nil {
					return err
				}
				io.process[i] = null
				continue
			}
			read, write, err := pipe(i == 0)
			if err != nil {
				return fmt.Errorf("make a pipe: %w", err)
			}
			if i == 0 {
				io.process[i], io.stdin = read, write
			} else {
				io.process[i], io.outputs[i-1] = write, read
			}
			if err := io.process[i].Chown(int(uid), int(gid)); err != nil {
				return err
			}
		}
		return nil
	}()
	if err != nil {
		io.close()
		return nil, fmt.Errorf("standard streams: %w", err)
	}
	return io, nil
}

// pipe makes a pipe of which one end is for this program, to be waited for without a thread, and the other for a process, to block.
func pipe(weWrite bool) (read, write *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	ours := fds[0]
	if weWrite {
		ours = fds[1]
	}
	// A smaller pipe than asked for works too.
	_, _ = unix.FcntlInt(uintptr(ours), unix.F_SETPIPE_SZ, pipeSize)
	if err := unix.SetNonblock(ours, true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

// closeProcess closes the process's ends, of which the process has its own copies.
func (s *stdio) closeProcess() {
	for i, f := range s.process {
		if f != nil {
			f.Close()
			s.process[i] = nil
		}
	}
}

// close closes everything.
func (s *stdio) close() {
	s.closeProcess()
	for _, f := range [...]*os.File{s.stdin, s.outputs[0], s.outputs[1]} {
		if f != nil {
			f.Close()
		}
	}
}
