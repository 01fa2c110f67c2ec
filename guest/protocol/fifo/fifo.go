// Package fifo is the far side of byte streams of kind protocol.StreamOutput: a FIFO that is made for each, and what is written to it.
package fifo

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// Output is one such stream. What is read of it is what the stream's visitor is to be sent: the FIFO's path, as protocol.WriteOutputPath
// writes it, then what is written to the FIFO, until there was a writer and there is none any more. What is written to the stream is
// dropped; to end that direction is to end the stream. One goroutine may read at a time; the other methods may be called at any time.
type Output struct {
	answer bytes.Buffer // what is left of it
	dir    *os.File
	name   string
	file   *os.File // the end that is read
	raw    syscall.RawConn
	closed sync.Once
}

// New makes a FIFO of that mode in a directory. path is the directory's, as who is to write knows it: with the FIFO's name it has to fit
// into the 255 bytes of an answer. The directory becomes the output's, which the caller must Close.
func New(dir *os.File, path string, mode os.FileMode) (_ *Output, err error) {
	o := &Output{dir: dir, name: rand.Text()} // nobody can guess it
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make a FIFO in %s: %w", path, err), dir.Close())
		}
	}()
	if err := protocol.WriteOutputPath(&o.answer, filepath.Join(path, o.name)); err != nil {
		return nil, err
	}
	if err := unix.Mkfifoat(int(dir.Fd()), o.name, 0o600); err != nil {
		return nil, err
	}
	if err := o.open(mode); err != nil {
		return nil, errors.Join(err, o.remove())
	}
	return o, nil
}

// open opens the end that is read. Somebody else may write to the directory, so it is looked at what was opened.
func (o *Output) open(mode os.FileMode) error {
	fd, err := unix.Openat(int(o.dir.Fd()), o.name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), o.name)
	info, err := file.Stat()
	if err == nil && info.Mode().Type() != os.ModeNamedPipe {
		err = fmt.Errorf("somebody has put something else in its place: %w", errdefs.ErrFailedPrecondition)
	}
	if err == nil {
		err = file.Chmod(mode) // whatever the umask
	}
	if err == nil {
		o.raw, err = file.SyscallConn()
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	o.file = file
	return nil
}

func (o *Output) remove() error {
	err := unix.Unlinkat(int(o.dir.Fd()), o.name, 0)
	if err == unix.ENOENT {
		return nil
	}
	return err
}

// Read implements io.Reader. It waits for the first writer for as long as it takes.
func (o *Output) Read(p []byte) (n int, err error) {
	if o.answer.Len() > 0 || len(p) == 0 {
		return o.answer.Read(p)
	}
	waitErr := o.raw.Read(func(fd uintptr) bool {
		n, err = read(int(fd), p)
		return err != unix.EAGAIN
	})
	switch {
	case waitErr != nil: // it was closed
		return 0, waitErr
	case err != nil:
		return 0, fmt.Errorf("read a FIFO: %w", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// read reads what there is of a FIFO. 0: there was a writer and there is none any more; EAGAIN: neither bytes nor that.
func read(fd int, p []byte) (int, error) {
	// To a reader who does not wait, a writer who has not come yet looks like one who has gone. The kernel tells them apart by POLLHUP; it is
	// asked for before the read, because after it a writer could come, write and go.
	state := []unix.PollFd{{Fd: int32(fd)}}
	for {
		if _, err := unix.Poll(state, 0); err == unix.EINTR {
			continue
		} else if err != nil {
			return 0, err
		}
		n, err := unix.Read(fd, p)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0 && state[0].Revents&unix.POLLHUP == 0:
			return 0, unix.EAGAIN
		}
		return n, nil
	}
}

// Write drops what the visitor says.
func (o *Output) Write(p []byte) (int, error) { return len(p), nil }

// CloseWrite ends the stream: its visitor is not there any more.
func (o *Output) CloseWrite() error { return o.Close() }

// Close removes the FIFO. Who still writes to it is told that nobody reads. It may be called more than once.
func (o *Output) Close() (err error) {
	o.closed.Do(func() { err = errors.Join(o.remove(), o.file.Close(), o.dir.Close()) })
	return err
}
