package container

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/pod"
	"github.com/limpet-run/limpet/guest/agent/reaper"
	"github.com/limpet-run/limpet/guest/agent/streams"
	"github.com/limpet-run/limpet/guest/protocol"
)

// Streams are the byte streams that the host opens.
type Streams interface {
	// Input and Output wait for the stream with that token. It is the caller's.
	Input(ctx context.Context, token protocol.Token, kept bool) (io.ReadCloser, error)
	Output(ctx context.Context, token protocol.Token, kept bool) (streams.Output, error)
}

// Reporter is told what happens to processes. Its calls do not wait.
type Reporter interface {
	StreamEnd(requestID uint64, stream string, bytes uint64)
	OOM(containerID string)
	Exit(exit protocol.Exit)
}

// Options are what a Set needs of its surroundings.
type Options struct {
	Reaper     *reaper.Reaper
	Streams    Streams
	Reporter   Reporter
	Logger     *slog.Logger
	Dir        string                      // where bundles are made
	CgroupRoot string                      // where cgroup v2 is mounted
	Share      string                      // where the host's file share is mounted
	Overlays   string                      // where root file systems are that the guest has made itself
	MountShare func(context.Context) error // mounts it; called until it succeeds once
	Unmount    func() error                // undoes MountShare
	Crun       string                      // path of the OCI runtime
}

// Set is the containers of a sandbox.
type Set struct {
	Options
	streams  Streams
	reporter Reporter
	crun     *crun
	native   starter

	mounting chan struct{} // holds an element while the share is mounted or unmounted: whoever needs it has to wait anyway
	mounted  bool          // guarded by mounting

	making sync.Mutex // held while the pod's namespaces are made

	mu         sync.Mutex
	stopping   bool
	used       bool        // there is or was a container
	pod        *pod.Holder // nil: there is no pod
	containers map[string]*Container
	requests   map[uint64]*Container // every process id in use, and whose it is
}

// NewSet makes an empty set.
func NewSet(options Options) *Set {
	return &Set{
		Options: options, mounting: make(chan struct{}, 1), streams: options.Streams, reporter: options.Reporter,
		crun:       &crun{path: options.Crun, reaper: options.Reaper},
		native:     &native{reaper: options.Reaper, cgroupRoot: options.CgroupRoot},
		containers: map[string]*Container{}, requests: map[uint64]*Container{},
	}
}

// maxContainers is far more than one virtual machine has use for; a pod has a handful.
const maxContainers = 1024

// Prepare makes a container known whose root directory lies at m.Rootfs below the share, or below Overlays if m.Rootfs begins so.
func (s *Set) Prepare(ctx context.Context, m protocol.Prepare) error {
	if err := checkID(m.ContainerID); err != nil {
		return err
	}
	rootfs, shared, err := s.locate(m.Rootfs)
	if err != nil {
		return fmt.Errorf("prepare container %s: rootfs: %w", m.ContainerID, err)
	}
	c, err := s.claim(m.ContainerID, rootfs)
	if err != nil {
		return fmt.Errorf("prepare container %s: %w", m.ContainerID, err)
	}
	c.shared = shared
	defer close(c.settled)
	err = c.prepare(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.containers, c.id)
		return fmt.Errorf("prepare container %s: %w", c.id, err)
	}
	c.state = prepared
	return nil
}

// locate finds a root directory, and whether it is of the host's file share.
func (s *Set) locate(rootfs string) (path string, shared bool, err error) {
	if overlay, ok := strings.CutPrefix(rootfs, s.Overlays+"/"); ok && s.Overlays != "" {
		path, err = below(s.Overlays, overlay)
		return path, false, err
	}
	path, err = below(s.Share, strings.TrimPrefix(rootfs, s.Share+"/"))
	return path, true, err
}

// claim takes a container's id.
func (s *Set) claim(id, rootfs string) (*Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopping:
		return nil, errStopping
	case s.containers[id] != nil:
		return nil, errdefs.ErrAlreadyExists
	case len(s.containers) >= maxContainers:
		return nil, fmt.Errorf("there are %d already: %w", maxContainers, errdefs.ErrResourceExhausted)
	}
	c := &Container{
		set: s, id: id, dir: filepath.Join(s.Dir, id), rootfs: rootfs, cgroup: cgroup(filepath.Join(s.CgroupRoot, cgroupName(id))),
		logger: s.Logger.With("container", id), settled: make(chan struct{}), processes: map[uint64]*Process{},
	}
	s.containers[id] = c
	s.used = true
	return c, nil
}

// Used tells whether there is a container, or was one.
func (s *Set) Used() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// Mount mounts the host's file share, if that is not done yet.
func (s *Set) Mount(ctx context.Context) error {
	if err := s.beginMounting(ctx); err != nil {
		return err
	}
	defer func() { <-s.mounting }()
	if s.mounted {
		return nil
	}
	err := s.MountShare(ctx)
	s.mounted = err == nil
	return err
}

// beginMounting waits until nobody mounts or unmounts the share. Who has waited takes the element of mounting out again.
func (s *Set) beginMounting(ctx context.Context) error {
	select {
	case s.mounting <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the file share is being mounted: %w", ctx.Err())
	}
}

// Run starts a container's init. The host hears of its end only after Announce.
func (s *Set) Run(ctx context.Context, m protocol.Run) (*Process, error) {
	c, err := s.container(m.ContainerID)
	if err != nil {
		return nil, fmt.Errorf("run: %w", err)
	}
	return c.run(ctx, m)
}

// Exec starts one more process in a running container. The host hears of its end only after Announce.
func (s *Set) Exec(ctx context.Context, m protocol.Exec) (*Process, error) {
	c, err := s.container(m.ContainerID)
	if err != nil {
		return nil, fmt.Errorf("exec: %w", err)
	}
	return c.exec(ctx, m)
}

// Remove forgets a container that does not run, and removes what is left of it.
func (s *Set) Remove(m protocol.Remove) error {
	c, err := s.container(m.ContainerID)
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	<-c.settled // the host may give up a preparation that goes on
	if c, err = s.container(m.ContainerID); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	return c.remove()
}

// maxSignal is the highest signal number of Linux.
const maxSignal = 64

// Signal sends a signal to a process, a negative one to the process group that it leads, or with m.All to all of its container. A process
// that has ended is no error.
func (s *Set) Signal(m protocol.Signal) error {
	if m.Signal < -maxSignal || m.Signal < 0 && m.All || m.Signal > maxSignal {
		return fmt.Errorf("signal %d to process %d: want %d to %d: %w", m.Signal, m.RequestID, -maxSignal, maxSignal, errdefs.ErrInvalidArgument)
	}
	c, p, err := s.process(m.RequestID)
	switch {
	case err != nil:
		return fmt.Errorf("signal: %w", err)
	case m.All:
		return c.signalAll(unix.Signal(m.Signal))
	case p == nil:
		return nil
	case m.Signal < 0:
		return p.child.SignalGroup(unix.Signal(-m.Signal))
	}
	return p.signal(unix.Signal(m.Signal))
}

// Resize sets the size of a process's terminal.
func (s *Set) Resize(m protocol.Resize) error {
	_, p, err := s.process(m.RequestID)
	if err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	if p == nil {
		return nil
	}
	return p.resize(m.Size)
}

// CloseStdin ends a process's terminal input once its stream has ended.
func (s *Set) CloseStdin(m protocol.CloseStdin) error {
	_, p, err := s.process(m.RequestID)
	if err != nil {
		return fmt.Errorf("close stdin: %w", err)
	}
	if p == nil {
		return nil
	}
	return p.closeInput()
}

// container finds a container.
func (s *Set) container(id string) (*Container, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
}

// process finds a process, nil if it has ended, and its container.
func (s *Set) process(requestID uint64) (*Container, *Process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.requests[requestID]
	if c == nil {
		return nil, nil, fmt.Errorf("process %d: %w", requestID, errdefs.ErrNotFound)
	}
	if p := c.processes[requestID]; p != nil {
		return c, p, nil
	}
	for _, ended := range c.exited {
		if ended == requestID {
			return c, nil, nil
		}
	}
	return nil, nil, fmt.Errorf("process %d is not started yet: %w", requestID, errdefs.ErrNotFound)
}

// reserve takes a process id before the process is started.
func (s *Set) reserve(requestID uint64, c *Container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopping:
		return errStopping
	case requestID == 0:
		return fmt.Errorf("process id 0: %w", errdefs.ErrInvalidArgument)
	case s.requests[requestID] != nil:
		return fmt.Errorf("process %d: %w", requestID, errdefs.ErrAlreadyExists)
	}
	s.requests[requestID] = c
	return nil
}

// release gives the id of a process that did not start back.
func (s *Set) release(requestID uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.requests, requestID)
}

var errStopping = fmt.Errorf("the machine is being stopped: %w", errdefs.ErrFailedPrecondition)
