package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/runtime"
)

const (
	// offerTimeout is how long a spare may take to say whether it is to be had: it has to look at some files of /proc. One that waits for
	// a processor, or speaks with another asker, is passed over: a server of one's own would wait too.
	offerTimeout = 100 * time.Millisecond
	// takeTimeout is how long it may take then to become the asker's: the moves between cgroups take the longest, tens of milliseconds.
	takeTimeout = 2 * time.Second
	// patience is how long an asker looks for a spare in all, so that spares that hang do not add up.
	patience = 300 * time.Millisecond
)

// Ask has a spare of the state directory serve the socket, and returns the process that does. errdefs.ErrNotFound: there is none that does.
// The socket stays the caller's.
func Ask(stateDir string, request Request, socket *os.File) (pid int, err error) {
	doors, err := doorsOf(stateDir)
	if err != nil {
		return 0, err
	}
	var errs []error
	for began := time.Now(); len(doors) > 0 && time.Since(began) < patience; doors = doors[1:] {
		pid, err := ask(doors[0], request, socket)
		if err == nil {
			return pid, nil
		}
		errs = append(errs, err)
	}
	return 0, fmt.Errorf("no spare: %w: %w", errdefs.ErrNotFound, errors.Join(errs...))
}

// doorsOf lists the sockets of the spares.
func doorsOf(stateDir string) ([]string, error) {
	return filepath.Glob(filepath.Join(Dir(stateDir), "*"+doorSuffix))
}

// ask asks one spare.
func ask(door string, request Request, socket *os.File) (pid int, err error) {
	conn, err := (&net.Dialer{Timeout: offerTimeout}).Dial("unixpacket", door)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	link := link{conn.(*net.UnixConn)}
	spare, err := link.peer()
	if err != nil {
		return 0, err
	}
	process, err := runtime.DescribeProcess("a spare", int(spare.Pid))
	if err != nil {
		return 0, err
	}
	if err := link.send(offerTimeout, request, socket); err != nil {
		return 0, err
	}
	var answer word
	if _, err := link.receive(offerTimeout, &answer); err != nil {
		return 0, err
	}
	if !answer.Ready {
		return 0, fmt.Errorf("refused: %s: %w", answer.Refused, errdefs.ErrFailedPrecondition)
	}
	if err := link.send(offerTimeout, word{Go: true}, nil); err != nil {
		return 0, err
	}
	answer = word{}
	_, err = link.receive(takeTimeout, &answer)
	if err == nil && answer.Taken {
		return process.PID, nil
	}
	// It may serve the socket all the same, or later.
	ctx, cancel := context.WithTimeout(context.Background(), takeTimeout)
	defer cancel()
	return 0, errors.Join(fmt.Errorf("it did not come along: %s", answer.Refused), err, runtime.EndProcess(ctx, process))
}
