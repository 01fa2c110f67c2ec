package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/config"
)

const (
	// minPause and maxPause bound the pause before another spare is made after one has failed. It doubles with each.
	minPause = time.Second
	maxPause = time.Minute
	// endTimeout is how long spares may take to end that have been told to: their machines are killed.
	endTimeout = 20 * time.Second
	// lockName is the file that is locked as long as a service keeps the pool.
	lockName = "lock"
)

// Options says what pool to keep.
type Options struct {
	StateDir string // of the sandboxes, see config.Config.StateDir
	Size     int    // how many spares wait, 1 to config.MaxPoolSize
	// Program is the shim's, called with Arguments, which ends with the verb for a spare.
	Program   string
	Arguments []string
	Logger    *slog.Logger
}

// Keep keeps that many spares until the context ends. It makes one after another. errdefs.ErrAlreadyExists: the state directory has a pool.
func Keep(ctx context.Context, options Options) error {
	if options.Size < 1 || options.Size > config.MaxPoolSize {
		return fmt.Errorf("a pool of %d: it can have 1 to %d: %w", options.Size, config.MaxPoolSize, errdefs.ErrInvalidArgument)
	}
	dir := Dir(options.StateDir)
	if err := os.MkdirAll(options.StateDir, 0o711); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make the pool's directory: %w", err)
	}
	lock, err := lockPool(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	k := &keeper{options: options, log: options.Logger, news: make(chan news), over: make(chan struct{}), children: map[*child]bool{}}
	defer close(k.over)
	k.clean()
	k.keep(ctx)
	return errors.Join(k.end(), os.RemoveAll(dir))
}

func lockPool(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the pool: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("another service keeps the pool in %s: end that one first: %w", dir, errdefs.ErrAlreadyExists)
	}
	return file, nil
}

// keeper is the service. One goroutine has it; others tell it what becomes of the spares.
type keeper struct {
	options  Options
	log      *slog.Logger
	news     chan news
	over     chan struct{}   // closed when nobody hears the news any more
	children map[*child]bool // those that are not taken; true: ready
	making   *child          // nil: none is being made
	pause    time.Duration   // before the next, after a failure
}

// news is what a spare has become.
type news struct {
	child *child
	what  status
	err   error // of its end
}

// keep makes spares where some are missing, until the context ends.
func (k *keeper) keep(ctx context.Context) {
	var again <-chan time.Time // the end of a pause
	for {
		if again == nil && k.making == nil && len(k.children) < k.options.Size {
			if err := k.make(); err != nil {
				again = k.failed(err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
			again = nil
		case news := <-k.news:
			if err := k.hear(news); err != nil {
				again = k.failed(err)
			}
		}
	}
}

// make starts a spare.
func (k *keeper) make() error {
	child, err := startChild(k.options.Program, k.options.Arguments)
	if err != nil {
		return err
	}
	k.children[child], k.making = false, child
	go child.follow(func(what status, err error) {
		select {
		case k.news <- news{child, what, err}:
		case <-k.over:
		}
	})
	return nil
}

// failed notes that no spare came of it, and returns when to try again.
func (k *keeper) failed(err error) <-chan time.Time {
	k.pause = min(max(2*k.pause, minPause), maxPause)
	k.log.Error("no spare was made", "error", err, "again_in", k.pause)
	return time.After(k.pause)
}

// hear takes note of what a spare has become. The error is that of one that came to nothing.
func (k *keeper) hear(news news) error {
	ready, ours := k.children[news.child]
	if !ours {
		return nil // the end of a sandbox's server
	}
	log := k.log.With("pid", news.child.pid())
	if news.child == k.making {
		k.making = nil
	}
	switch news.what {
	case statusReady:
		k.children[news.child], k.pause = true, 0
		log.Info("a spare waits", "spares", len(k.children))
		return nil
	case statusTaken:
		delete(k.children, news.child)
		log.Info("a spare was taken", "spares", len(k.children))
		return nil
	}
	delete(k.children, news.child)
	k.clean()
	if !ready {
		return fmt.Errorf("process %d: %w", news.child.pid(), news.err)
	}
	log.Warn("a spare has ended", "error", news.err, "spares", len(k.children))
	return nil
}

// end ends the spares that wait, and waits for them.
func (k *keeper) end() error {
	late := time.NewTimer(endTimeout)
	defer late.Stop()
	for child := range k.children {
		child.end()
	}
	for len(k.children) > 0 {
		select {
		case news := <-k.news:
			if news.what != statusReady { // taken or ended
				delete(k.children, news.child)
			}
		case <-late.C:
			for child := range k.children {
				child.kill()
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	return runtime.RemoveSpares(ctx, k.options.StateDir)
}

// clean removes what spares have left that were killed.
func (k *keeper) clean() {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if err := runtime.RemoveSpares(ctx, k.options.StateDir); err != nil {
		k.log.Warn("what a spare has left stays", "error", err)
	}
	doors, _ := doorsOf(k.options.StateDir) // the pattern is good
	for _, door := range doors {
		if !k.has(door) {
			_ = os.Remove(door) // it may be gone
		}
	}
}

// has tells whether a socket is that of a spare that lives.
func (k *keeper) has(door string) bool {
	for child := range k.children {
		if filepath.Base(door) == doorName(child.pid()) {
			return true
		}
	}
	return false
}
