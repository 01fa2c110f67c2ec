package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Sandboxes that are started at once take turns. A start is work for the processors: with more of them at a time than there are processors
// for, none is done sooner, and each takes so long that its steps come to their deadlines.

const (
	// startsPerProcessor is how many sandboxes start at the same time for each of the host's processors: while one waits another one works.
	startsPerProcessor = 2
	// turnPatience is after what time a sandbox starts in any case: it may wait for starts that hang, and is not to fail for them.
	turnPatience = 2 * time.Minute
	// turnPoll is how often the next in line looks for a turn that is free. It is the only one who does.
	turnPoll = 10 * time.Millisecond
	// turnsFile is in the directory of the sandboxes' directories. Who has a turn has a lock of a byte of it, and gives it back in dying. The
	// byte behind those of the turns is locked by the next in line.
	turnsFile = ".turns"
)

var errImpatient = errors.New("a start has waited for its turn for long enough")

// turns are those that all sandboxes below a directory have together.
type turns struct {
	dir      string
	count    int
	patience time.Duration
}

func turnsIn(stateDir string) turns {
	return turns{dir: stateDir, count: startsPerProcessor * goruntime.NumCPU(), patience: turnPatience}
}

// take waits for a turn, until the context ends. The caller gives it back with done. Who has waited too long goes on without one.
func (t turns) take(ctx context.Context) (done func(), err error) {
	file, err := os.OpenFile(filepath.Join(t.dir, turnsFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("wait for a turn: %w", err)
	}
	giveBack := func() { file.Close() } // with the open file its locks go
	ctx, cancel := context.WithTimeoutCause(ctx, t.patience, errImpatient)
	defer cancel()
	next := make(chan error, 1)
	go func() { next <- lockByte(file, t.count, unix.F_WRLCK, unix.F_OFD_SETLKW) }()
	select {
	case err = <-next:
	case <-ctx.Done():
		go func() { // who waits for a lock cannot be called back
			<-next
			giveBack()
		}()
		return t.without(ctx)
	}
	if err == nil {
		err = t.takeFree(ctx, file)
	}
	if err == nil {
		err = lockByte(file, t.count, unix.F_UNLCK, unix.F_OFD_SETLK)
	}
	if err == nil {
		return giveBack, nil
	}
	giveBack()
	if ctx.Err() != nil {
		return t.without(ctx)
	}
	return nil, fmt.Errorf("wait for a turn: %w", err)
}

// awaitTurn waits until it is the sandbox's turn to start its machine. The caller gives the turn back. For one that is there already nobody
// has to wait.
func (s *Sandbox) awaitTurn(ctx context.Context, plan machinePlan) (done func(), err error) {
	if s.machine != nil {
		return func() {}, nil
	}
	defer plan.times.stage("turn")()
	return turnsIn(plan.config.StateDir).take(ctx)
}

// without ends the waiting of who has got no turn.
func (t turns) without(ctx context.Context) (done func(), err error) {
	if err := context.Cause(ctx); !errors.Is(err, errImpatient) {
		return nil, err
	}
	return func() {}, nil
}

// takeFree waits until a turn is free, and takes it.
func (t turns) takeFree(ctx context.Context, file *os.File) error {
	ticker := time.NewTicker(turnPoll)
	defer ticker.Stop()
	for {
		for i := range t.count {
			if err := lockByte(file, i, unix.F_WRLCK, unix.F_OFD_SETLK); !errors.Is(err, unix.EAGAIN) {
				return err
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lockByte locks or unlocks (kind) a byte of a file, for as long as the file is open.
func lockByte(file *os.File, offset int, kind int16, command int) error {
	lock := unix.Flock_t{Type: kind, Whence: unix.SEEK_SET, Start: int64(offset), Len: 1}
	for {
		if err := unix.FcntlFlock(file.Fd(), command, &lock); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
