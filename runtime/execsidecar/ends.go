package execsidecar

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// End is one end of a client's stream. Its Close ends a Read or Write that waits.
type End = io.ReadWriteCloser

// OpenEnd makes a second descriptor of a client's stream, for a copy in this process. It does not become non-blocking, which all who share
// the first one would notice: pipes and terminals are opened anew, sockets are asked not to wait call by call, and files never do. The
// file remains the caller's.
func OpenEnd(file *os.File) (End, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at a client's descriptor: %w", err)
	}
	if info.Mode()&os.ModeNamedPipe != 0 || IsTerminal(file) {
		return reopen(file)
	}
	again, err := duplicate(file)
	if err == nil && info.Mode()&os.ModeSocket != 0 {
		return newSocketEnd(again)
	}
	return again, err
}

// reopen opens what the descriptor stands for once more, without blocking and in the same mode.
func reopen(file *os.File) (End, error) {
	flags, err := unix.FcntlInt(file.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return nil, fmt.Errorf("look at a client's descriptor: %w", err)
	}
	again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), flags&unix.O_ACCMODE|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, unix.ENXIO) { // a pipe that nobody reads: to write to it fails at once
		return duplicate(file)
	}
	if err != nil {
		return nil, fmt.Errorf("open a client's descriptor again: %w", err)
	}
	return again, nil
}

func duplicate(file *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate a client's descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}

// IsTerminal tells whether a descriptor is one; nil is none.
func IsTerminal(file *os.File) bool {
	if file == nil {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// socketEnd reads and writes a socket with MSG_DONTWAIT and waits with poll(2).
type socketEnd struct {
	file           *os.File
	closed, keeper *os.File // a pipe, of which the keeper is closed by Close
	once           sync.Once

	use sync.RWMutex // held for reading while descriptors are used
	fd  int          // of the file; -1 once it is closed
}

// newSocketEnd takes over a socket.
func newSocketEnd(file *os.File) (End, error) {
	closed, keeper, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &socketEnd{file: file, fd: int(file.Fd()), closed: closed, keeper: keeper}, nil
}

func (s *socketEnd) Read(data []byte) (int, error) {
	n, err := s.try(unix.POLLIN, func(fd int) (int, error) {
		n, _, err := unix.Recvfrom(fd, data, unix.MSG_DONTWAIT)
		return n, err
	})
	if n == 0 && err == nil && len(data) > 0 {
		err = io.EOF
	}
	return n, err
}

func (s *socketEnd) Write(data []byte) (written int, err error) {
	for written < len(data) && err == nil {
		var n int
		n, err = s.try(unix.POLLOUT, func(fd int) (int, error) {
			return unix.SendmsgN(fd, data[written:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		})
		written += n
	}
	return written, err
}

// try does something as soon as the socket is ready for it.
func (s *socketEnd) try(ready int16, do func(fd int) (int, error)) (int, error) {
	s.use.RLock()
	defer s.use.RUnlock()
	for s.fd >= 0 {
		n, err := do(s.fd)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EAGAIN):
			return 0, err
		}
		awaited := []unix.PollFd{{Fd: int32(s.fd), Events: ready}, {Fd: int32(s.closed.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(awaited, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return 0, err
		}
		if awaited[1].Revents != 0 {
			break
		}
	}
	return 0, os.ErrClosed
}

// Close wakes who waits, and closes what he used.
func (s *socketEnd) Close() (err error) {
	s.once.Do(func() {
		err = s.keeper.Close()
		s.use.Lock()
		defer s.use.Unlock()
		s.fd = -1
		err = errors.Join(err, s.closed.Close(), s.file.Close())
	})
	return err
}
