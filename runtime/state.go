package runtime

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/internal/atomicfile"
	"github.com/limpet-run/limpet/runtime/bridge"
)

const (
	// stateLink is the name, in the bundle, of the link to the sandbox's state directory: who cleans up knows the bundle only.
	stateLink = "limpet-state"

	recordFile = "state.json"
	lockFile   = "lock"
	shareDir   = "shared"
	vmDir      = "vm"
	vsockDir   = "vsock"
	podDir     = "pod"    // empty: the root of the pod's anchor
	filesDir   = "files"  // of the pod
	resolvDir  = "resolv" // the containers' resolv.conf, by their ids
	netnsFile  = "netns"  // of MakeNetwork
)

// record is what the state directory remembers of a sandbox: enough to end it without its shim.
type record struct {
	Namespace  string                     `json:"namespace"`
	ID         string                     `json:"id"`
	Bundle     string                     `json:"bundle"` // has the link to the state directory
	Holder     hypervisor.Process         `json:"holder"` // the process with the lock
	Machine    []hypervisor.Process       `json:"machine"`
	Size       sizeRecord                 `json:"size"`
	Template   string                     `json:"template,omitempty"` // that the machine is a clone of
	Spare      spareState                 `json:"spare,omitempty"`    // empty: it is no spare
	Cgroup     []string                   `json:"cgroup,omitempty"`   // its directories, to be removed
	Pod        *podRecord                 `json:"pod,omitempty"`
	Containers map[string]containerRecord `json:"containers"`
	// Bridge is the network that MakeNetwork made, set before anything is done.
	Bridge *bridge.Network `json:"bridge,omitempty"`
	// Began and Parts are the sandbox's trace, see Trace.
	Began time.Time   `json:"began"`
	Parts []TracePart `json:"parts"`
}

// containerRecord is what is remembered of a container. Bundle and rootfs are recorded before anything is made for it.
type containerRecord struct {
	Bundle string `json:"bundle"`
	// Rootfs is where containerd's mounts were put, to be taken away again. Empty: there were none.
	Rootfs string              `json:"rootfs"`
	Anchor *hypervisor.Process `json:"anchor,omitempty"`
	// Network is set before anything is done to a namespace that others own.
	Network *networkRecord `json:"network,omitempty"`
	// State and Exit are those of its init, for who asks from outside. Empty: it is being created.
	State   State       `json:"state,omitempty"`
	Exit    *ExitRecord `json:"exit,omitempty"`
	Created time.Time   `json:"created"`
}

// sizeRecord is how large the machine is.
type sizeRecord struct {
	VCPUs     int `json:"vcpus"`
	MemoryMiB int `json:"memory_mib"`
}

// errRemoved is what who writes to a state directory gets once it is being removed.
var errRemoved = fmt.Errorf("the sandbox's state directory is being removed: %w", errdefs.ErrFailedPrecondition)

// stateDir is a sandbox's directory on the host. Its lock is held as long as the sandbox's shim lives, so that a directory
// that nobody holds is known to be left over.
type stateDir struct {
	path string
	lock *os.File

	mu      sync.Mutex
	record  record
	removed bool // or about to be: nothing is written any more
}

// StatePath is the directory of a sandbox: a short name, because unix sockets lie below it and their paths are limited.
func StatePath(root, namespace, id string) string {
	sum := sha256.Sum256([]byte(namespace + "/" + id))
	return filepath.Join(root, hex.EncodeToString(sum[:8]))
}

// createStateDir makes a sandbox's directory with the first record, and a link to it in the record's bundle, if it names one. One that is
// left over of a shim that is gone is cleaned up first; one that is in use is an ErrAlreadyExists. On error nothing is left.
func createStateDir(ctx context.Context, root string, first record) (_ *stateDir, err error) {
	dir := &stateDir{path: StatePath(root, first.Namespace, first.ID), record: first}
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("which program is this: %w", err)
	}
	if dir.record.Holder, err = hypervisor.NewProcess(filepath.Base(program), os.Getpid()); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, dir.failed("make", err)
	}
	if err := reclaim(ctx, dir.path); err != nil {
		return nil, fmt.Errorf("state directory %s is there already: %w", dir.path, err)
	}
	if err := os.Mkdir(dir.path, 0o700); err != nil {
		return nil, dir.failed("make", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, dir.remove(context.WithoutCancel(ctx)))
		}
	}()
	if dir.lock, err = lockState(dir.path); err != nil {
		return nil, err
	}
	for _, sub := range []struct {
		name string
		mode os.FileMode
	}{
		// In the guest a user namespace's root, who is nobody there, finds the way to its container.
		{shareDir, 0o711}, {vmDir, 0o700}, {vsockDir, 0o700},
	} {
		if err := os.Mkdir(filepath.Join(dir.path, sub.name), sub.mode); err != nil {
			return nil, dir.failed("make", err)
		}
	}
	if err := dir.update(func(*record) {}); err != nil {
		return nil, err
	}
	if first.Bundle != "" {
		if err := linkState(first.Bundle, dir.path); err != nil {
			return nil, dir.failed("link to", err)
		}
	}
	return dir, nil
}

// linkState makes the link to a state directory in a bundle.
func linkState(bundle, path string) error {
	link := filepath.Join(bundle, stateLink)
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(path, link)
}

// become makes a spare's directory that of a sandbox, as createStateDir would have made it: the machine's part of the record stays. Should
// this process be killed meanwhile, the directory is found by its old name or by the bundle's link.
func (d *stateDir) become(ctx context.Context, next record) error {
	path := StatePath(filepath.Dir(d.path), next.Namespace, next.ID)
	if err := reclaim(ctx, path); err != nil {
		return fmt.Errorf("state directory %s is there already: %w", path, err)
	}
	if err := linkState(next.Bundle, path); err != nil {
		return d.failed("link to", err)
	}
	d.mu.Lock()
	err := unix.Renameat2(unix.AT_FDCWD, d.path, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	if err == nil {
		d.path = path
	}
	d.mu.Unlock()
	if err != nil {
		return d.failed("rename", err)
	}
	return d.update(func(record *record) {
		next.Holder, next.Machine, next.Template, next.Size = record.Holder, record.Machine, record.Template, record.Size
		*record = next
	})
}

// reclaim cleans up a directory whose shim is gone; of one whose shim lives it is an ErrAlreadyExists. That there is none is no error.
func reclaim(ctx context.Context, path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := lockState(path)
	if err != nil {
		return err
	}
	defer lock.Close()
	return cleanupState(ctx, path)
}

// lockState takes the lock of a state directory, or returns an ErrAlreadyExists.
func lockState(path string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(path, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("state directory %s is in use: another shim runs this sandbox; end that one first: %w", path,
			errdefs.ErrAlreadyExists)
	}
	return file, nil
}

func (d *stateDir) share() string { return filepath.Join(d.path, shareDir) }
func (d *stateDir) vm() string    { return filepath.Join(d.path, vmDir) }
func (d *stateDir) vsock() string { return filepath.Join(d.path, vsockDir) }

// makeToken makes the token of the sessions with the agent. Who may read it can have one.
func (d *stateDir) makeToken() (string, error) {
	token, err := protocol.NewToken().MarshalText()
	if err != nil {
		return "", fmt.Errorf("make the sessions' token: %w", err)
	}
	if err := os.WriteFile(filepath.Join(d.path, client.TokenFile), token, 0o600); err != nil {
		return "", d.failed("write", err)
	}
	return string(token), nil
}

// update changes the record and writes it down.
func (d *stateDir) update(change func(*record)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.removed {
		return errRemoved
	}
	next := d.record
	next.Containers = maps.Clone(d.record.Containers)
	change(&next)
	if err := atomicfile.WriteJSON(filepath.Join(d.path, recordFile), next); err != nil {
		return d.failed("write", err)
	}
	d.record = next
	return nil
}

// updateContainer changes what is recorded of one container.
func (d *stateDir) updateContainer(id string, change func(*containerRecord)) error {
	return d.update(func(record *record) {
		container := record.Containers[id]
		change(&container)
		record.Containers[id] = container
	})
}

// updatePod changes what is recorded of the pod.
func (d *stateDir) updatePod(change func(*podRecord)) error {
	return d.update(func(record *record) {
		var pod podRecord
		if record.Pod != nil {
			pod = *record.Pod
		}
		change(&pod)
		record.Pod = &pod
	})
}

// remove takes the directory away, with every mount below it, and gives up its lock.
func (d *stateDir) remove(context.Context) error {
	d.mu.Lock()
	d.removed = true
	d.mu.Unlock()
	if err := removeTree(d.path); err != nil {
		return err
	}
	if d.lock != nil {
		d.lock.Close()
	}
	return nil
}

func (d *stateDir) failed(what string, err error) error {
	return fmt.Errorf("%s the sandbox's state directory %s (free space there, or set state_dir to another place): %w", what, d.path, err)
}

// readRecord reads what a state directory remembers.
func readRecord(path string) (record, error) {
	var read record
	text, err := os.ReadFile(filepath.Join(path, recordFile))
	if err != nil {
		return read, fmt.Errorf("read sandbox state: %w", err)
	}
	if err := json.Unmarshal(text, &read); err != nil {
		return read, fmt.Errorf("read sandbox state %s: %w", path, err)
	}
	return read, nil
}
