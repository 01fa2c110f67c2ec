package standalone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/internal/atomicfile"
	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/exitcode"
)

// Namespace is that of all runs: what containerd's namespace is for other sandboxes.
const Namespace = "limpet"

const (
	// placeSuffix follows the path of a sandbox's state directory. See runtime.StatePath.
	placeSuffix = ".run"
	recordFile  = "run.json"
	controlDoor = "control.sock"
	configFile  = "config.json" // the place is a bundle
)

// State is where a run is in the package's drawing. What is closed is not there.
type State string

// The states.
const (
	StateStarting State = "starting"
	StateRunning  State = "running"
	StateEnded    State = "ended"
)

// Exit says how a run ended.
type Exit struct {
	Code   int       `json:"code"`   // as the shell has it: 128+n for signal n
	Reason string    `json:"reason"` // "exited", "signal: N", "oom", "timeout", "vm lost", "start failed" or "holder killed"
	At     time.Time `json:"at"`
}

// Record is what a place remembers of its run.
type Record struct {
	Request  Request   `json:"request"`
	State    State     `json:"state"`
	Holder   int       `json:"holder"` // the process that holds it
	Detached bool      `json:"detached"`
	Began    time.Time `json:"began"`
	Ports    []Port    `json:"ports,omitempty"` // as they are open
	Exit     *Exit     `json:"exit,omitempty"`  // once it has ended
}

// place is a run's directory. Its lock is held as long as its holder lives.
type place struct {
	path string
	dir  *os.File // with the lock

	mu     sync.Mutex
	record Record
}

func placePath(stateDir, name string) string {
	return runtime.StatePath(stateDir, Namespace, name) + placeSuffix
}

// errHeld says that somebody holds a place.
var errHeld = fmt.Errorf("it is held by another process: %w", errdefs.ErrFailedPrecondition)

// claimPlace makes a place and holds it. What a killed holder left there is taken back first. A run that is there, also one that has
// ended, is an ErrAlreadyExists.
func claimPlace(ctx context.Context, stateDir string, first Record) (*place, error) {
	name := first.Request.Name
	if err := os.MkdirAll(stateDir, 0o711); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	path := placePath(stateDir, name)
	for {
		switch err := os.Mkdir(path, 0o700); {
		case err == nil:
		case !errors.Is(err, fs.ErrExist):
			return nil, fmt.Errorf("make a place for run %s: %w", name, err)
		default:
			if err := reclaimPlace(ctx, path); err != nil {
				return nil, fmt.Errorf("run %s: %w", name, err)
			}
			continue
		}
		p, err := holdPlace(path)
		if errors.Is(err, errHeld) || errors.Is(err, fs.ErrNotExist) {
			continue // who sweeps was there before us
		}
		if err != nil {
			return nil, fmt.Errorf("make a place for run %s: %w", name, err)
		}
		if err := p.update(func(record *Record) { *record = first }); err != nil {
			return nil, errors.Join(err, p.remove())
		}
		return p, nil
	}
}

// reclaimPlace takes away what is left at a place whose name is wanted, or says by an ErrAlreadyExists why it cannot be had.
func reclaimPlace(ctx context.Context, path string) error {
	p, err := holdPlace(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, errHeld):
		return fmt.Errorf("there is one of that name: choose another name, or end it with `limpet rm --force`: %w", errdefs.ErrAlreadyExists)
	case err != nil:
		return err
	}
	if p.record.Exit != nil {
		p.release()
		return fmt.Errorf("there is one of that name, which has ended: choose another name, or remove it with `limpet rm`: %w",
			errdefs.ErrAlreadyExists)
	}
	if err := runtime.Cleanup(ctx, path); err != nil {
		p.release()
		return err
	}
	return p.remove()
}

// holdPlace takes the lock of a place that is there and reads what it remembers. A missing one is an fs.ErrNotExist, a held one errHeld.
func holdPlace(path string) (*place, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		dir.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errHeld
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// Who had the lock before may have removed it.
	there, err := os.Stat(path)
	if err == nil {
		var mine os.FileInfo
		if mine, err = dir.Stat(); err == nil && !os.SameFile(there, mine) {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	p := &place{path: path, dir: dir}
	if p.record, err = readRecord(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // a record is the first thing that is written
		p.release()
		return nil, err
	}
	return p, nil
}

// update changes the record and writes it down.
func (p *place) update(change func(*Record)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := p.record
	change(&next)
	if err := atomicfile.WriteJSON(filepath.Join(p.path, recordFile), next); err != nil {
		return fmt.Errorf("write what is known of run %s: %w", next.Request.Name, err)
	}
	p.record = next
	return nil
}

// remove takes the place away with all that is in it.
func (p *place) remove() error {
	err := os.RemoveAll(p.path)
	p.release()
	return err
}

// release gives up the lock.
func (p *place) release() { p.dir.Close() }

func readRecord(path string) (Record, error) {
	var record Record
	text, err := os.ReadFile(filepath.Join(path, recordFile))
	if err != nil {
		return record, err
	}
	if err := json.Unmarshal(text, &record); err != nil {
		return record, fmt.Errorf("read %s: %w", path, err)
	}
	return record, nil
}

// places lists the paths of the places that there are.
func places(stateDir string) ([]string, error) {
	entries, err := os.ReadDir(stateDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for runs: %w", err)
	}
	var paths []string
	for _, entry := range entries {
		if entry.IsDir() && strings.HasSuffix(entry.Name(), placeSuffix) {
			paths = append(paths, filepath.Join(stateDir, entry.Name()))
		}
	}
	return paths, nil
}

// List returns what is known of the runs that there are, the oldest first. One that cannot be read does not keep the others back.
func List(stateDir string) ([]Record, error) {
	paths, err := places(stateDir)
	errs := []error{err}
	var records []Record
	for _, path := range paths {
		record, err := readRecord(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // it is just being made or removed
		case err != nil:
			errs = append(errs, err)
		default:
			records = append(records, record)
		}
	}
	slices.SortFunc(records, func(a, b Record) int { return a.Began.Compare(b.Began) })
	return records, errors.Join(errs...)
}

// Sweep takes back what killed holders left of their runs. One that ran in the background is kept as one that has ended.
func Sweep(ctx context.Context, stateDir string) error {
	paths, err := places(stateDir)
	errs := []error{err}
	for _, path := range paths {
		p, err := holdPlace(path)
		switch {
		case errors.Is(err, errHeld), errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		case p.record.Exit != nil:
			p.release()
		default:
			errs = append(errs, p.sweep(ctx))
		}
	}
	return errors.Join(errs...)
}

// sweep takes back what is left of a run whose holder was killed, and gives up the lock.
func (p *place) sweep(ctx context.Context) error {
	if err := runtime.Cleanup(ctx, p.path); err != nil {
		p.release()
		return err
	}
	if !p.record.Detached || p.record.Request.Remove {
		return p.remove()
	}
	defer p.release()
	return p.update(func(record *Record) {
		record.State, record.Exit = StateEnded, &Exit{Code: exitcode.Failure, Reason: "holder killed", At: time.Now()}
	})
}
