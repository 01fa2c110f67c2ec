package pool

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// status is what a spare says of itself, in lines on its standard output.
type status string

const (
	statusReady status = "ready"
	statusTaken status = "taken"
	statusEnded status = "ended" // nobody says so
)

// child is a spare's process as the service sees it.
type child struct {
	command *exec.Cmd
	stdin   io.Closer // with its end the spare ends
	stdout  io.Reader
}

// startChild starts a spare, in a session of its own.
func startChild(program string, arguments []string) (*child, error) {
	command := exec.Command(program, arguments...)
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, stdin.Close())
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start a spare: %w", err)
	}
	return &child{command, stdin, stdout}, nil
}

func (c *child) pid() int { return c.command.Process.Pid }

// end tells it to end; one that is taken meanwhile does not. It can be called once.
func (c *child) end() { _ = c.stdin.Close() }

// kill kills it.
func (c *child) kill() { _ = c.command.Process.Kill() } // it may have ended

// follow tells what becomes of it, to its end, also after it was taken: it stays this process's child.
func (c *child) follow(tell func(status, error)) {
	lines := bufio.NewScanner(c.stdout)
	for lines.Scan() {
		tell(status(lines.Text()), nil)
	}
	err := c.command.Wait()
	if err == nil {
		err = errors.New("it has ended")
	}
	tell(statusEnded, err)
}

// Service is the pool's service as a spare sees it.
type Service struct{ report *os.File }

// Serve makes this process, which was started by a pool's service, one of its spares: gone is closed when the service has ended, or wants this
// process to.
func Serve() (service *Service, gone <-chan struct{}) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = os.Stdin.Read(make([]byte, 1)) // nobody writes
	}()
	return &Service{os.Stdout}, ended
}

// Ready tells the service that the spare waits.
func (s *Service) Ready() error { return s.say(statusReady) }

// Leave tells the service that the spare was taken, and lets go of it.
func (s *Service) Leave() error {
	err := s.say(statusTaken)
	if errors.Is(err, unix.EPIPE) { // it has ended
		err = nil
	}
	null, openErr := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if openErr != nil {
		return errors.Join(err, openErr)
	}
	defer null.Close()
	for _, descriptor := range []int{0, 1} {
		err = errors.Join(err, unix.Dup3(int(null.Fd()), descriptor, 0))
	}
	return err
}

func (s *Service) say(what status) error {
	if _, err := fmt.Fprintln(s.report, what); err != nil {
		return fmt.Errorf("tell the pool's service: %w", err)
	}
	return nil
}
