package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/anchor"
)

const (
	// guestShare is where the agent mounts the sandbox's file share.
	guestShare = protocol.ShareDir
	// rootfsDir is the name of the root directory in a bundle and in a container's part of the share.
	rootfsDir = "rootfs"
)

// guestDir is a container's part of the share as the guest sees it.
func guestDir(id string) string { return path.Join(guestShare, id) }

// newContainer is a container that is being made. Its steps are mountContainer, stand and show, of which only the last one takes the
// machine and its guest; then finish, or abandon.
type newContainer struct {
	*Container
	root  string // directory of its root file system
	times *trace
}

// mountContainer plans a container and mounts its root file system. On error nothing is left of it.
func (s *Sandbox) mountContainer(ctx context.Context, options ContainerOptions) (*newContainer, error) {
	times := newTrace()
	planned, err := s.planContainer(options)
	if err != nil {
		options.IO.close()
		return nil, fmt.Errorf("create container %s: %w", options.ID, err)
	}
	c := &newContainer{Container: planned, times: times}
	if err := c.mount(options.Rootfs); err != nil {
		return nil, errors.Join(fmt.Errorf("create container %s: %w", c.id, err), c.abandon(ctx))
	}
	return c, nil
}

// finish carries out steps, at the same time, and makes the container one that is there. On error nothing is left of it.
func (c *newContainer) finish(ctx context.Context, steps ...func(context.Context) error) (*Container, error) {
	group, groupCtx := errgroup.WithContext(ctx)
	for _, step := range steps {
		group.Go(func() error { return step(groupCtx) })
	}
	if err := group.Wait(); err != nil {
		return nil, errors.Join(fmt.Errorf("create container %s: %w", c.id, err), c.abandon(ctx))
	}
	c.mu.Lock()
	c.life.mustMove(containerActive)
	c.mu.Unlock()
	c.times.log(ctx, c.log, "container created")
	c.sandbox.addPart(PartCreate, c.times)
	c.note()
	go c.followAnchor()
	return c.Container, nil
}

// abandon takes back what was made of the container.
func (c *newContainer) abandon(ctx context.Context) error {
	c.init.streams.close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	err := c.undo.run(ctx, newTrace())
	c.sandbox.forget(c.Container, c.init)
	return err
}

// mount mounts the root file system and looks for what is wrong with it.
func (c *newContainer) mount(rootfs []mount.Mount) (err error) {
	defer c.times.stage("rootfs")()
	dir := c.sandbox.dir
	if err := dir.updateContainer(c.id, func(record *containerRecord) {
		record.Bundle, record.Created = c.bundle, c.times.began
		if len(rootfs) > 0 {
			record.Rootfs = filepath.Join(c.bundle, rootfsDir)
		}
	}); err != nil {
		return err
	}
	c.undo.push("forget the container", func(context.Context) error {
		return dir.update(func(record *record) { delete(record.Containers, c.id) })
	})
	if c.root, err = c.mountRootfs(rootfs); err != nil {
		return err
	}
	if err := c.checkRootfs(c.root); err != nil {
		return err
	}
	return c.writeResolvConf()
}

// stand starts what stands for the container on the host.
func (c *newContainer) stand(ctx context.Context) error {
	defer c.times.stage("anchor")()
	return c.startAnchor(ctx, c.root)
}

// show shows the container to the guest, which looks at its rootfs while the machine grows.
func (c *newContainer) show(ctx context.Context) error {
	done := c.times.stage("share")
	if err := c.fillShare(ctx, c.root); err != nil {
		return err
	}
	done()
	c.enlist()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer c.times.stage("size")()
		return c.sandbox.grow(ctx)
	})
	group.Go(func() error {
		defer c.times.stage("prepare")()
		if err := c.makeVolumes(ctx); err != nil {
			return err
		}
		if err := c.plugDisks(ctx); err != nil {
			return err
		}
		return c.prepareGuest(ctx)
	})
	return group.Wait()
}

// mountRootfs mounts the container's root file system and returns its directory: an empty one if it is in the guest.
func (c *Container) mountRootfs(mounts []mount.Mount) (string, error) {
	if c.guestRootfs != "" {
		root := filepath.Join(c.bundle, rootfsDir)
		if err := os.Mkdir(root, 0o711); err != nil {
			return "", fmt.Errorf("make the root directory: %w", err)
		}
		c.undo.push("remove the root directory", func(context.Context) error { return os.Remove(root) })
		return root, nil
	}
	if len(mounts) == 0 {
		root := c.spec.Root.Path
		if !filepath.IsAbs(root) {
			root = filepath.Join(c.bundle, root)
		}
		info, err := os.Stat(root)
		if err != nil {
			return "", fmt.Errorf("root directory: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if !info.IsDir() {
			return "", fmt.Errorf("root directory %s is not a directory: %w", root, errdefs.ErrInvalidArgument)
		}
		return root, nil
	}
	root := filepath.Join(c.bundle, rootfsDir)
	if err := os.MkdirAll(root, 0o711); err != nil {
		return "", fmt.Errorf("make the root directory: %w", err)
	}
	// Pushed before, because some of several mounts may have been made when one fails.
	c.undo.push("unmount the root file system", func(context.Context) error { return detachBelow(root) })
	if err := mount.All(mounts, root); err != nil {
		return "", fmt.Errorf("mount the root file system (%s) on %s: %w", mounts[0].Type, root, err)
	}
	return root, nil
}

// checkRootfs finds out what is wrong with a root file system of the host before the guest would.
func (c *Container) checkRootfs(root string) error {
	if c.guestRootfs != "" {
		return nil
	}
	if err := checkProgram(root, c.spec); err != nil {
		return err
	}
	return checkMountPoints(root, c.spec, c.plan.Binds)
}

// fillShare puts the root directory and the mounts of the container into the share.
func (c *Container) fillShare(ctx context.Context, root string) error {
	dir := filepath.Join(c.sandbox.dir.share(), c.id)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return c.sandbox.dir.failed("make the container's share in", err)
	}
	// What is attached below it goes with it.
	c.undo.push("remove the container's share", func(context.Context) error { return removeTree(dir) })
	if err := os.Mkdir(filepath.Join(dir, protocol.MountsDir), 0o711); err != nil {
		return c.sandbox.dir.failed("make the container's share in", err)
	}
	if c.guestRootfs == "" {
		if err := c.share(root, rootfsDir, bindOptions{recursive: true}); err != nil {
			return fmt.Errorf("share the root file system: %w", err)
		}
	}
	for _, bind := range c.plan.Binds {
		if err := c.shareBind(ctx, bind); err != nil {
			return fmt.Errorf("mount on %s: %w", bind.Destination, err)
		}
	}
	return nil
}

// share shows the guest a file or directory under a name in the container's part of the share.
func (c *Container) share(source, name string, options bindOptions) error {
	return c.sandbox.attach(source, filepath.Join(c.id, name), options)
}

// attach shows the guest a file or directory under a path in the share.
func (s *Sandbox) attach(source, target string, options bindOptions) error {
	info, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	place := filepath.Join(s.dir.share(), target)
	if info.IsDir() {
		err = os.Mkdir(place, 0o711)
	} else {
		err = os.WriteFile(place, nil, 0o600)
	}
	if err != nil {
		return s.dir.failed("make the container's share in", err)
	}
	tree, err := openBind(source, options)
	if err != nil {
		return err
	}
	defer tree.Close()
	return s.machine.AttachMount(shareDevice, target, tree)
}

// prepareGuest lets the agent know of the container.
func (c *Container) prepareGuest(ctx context.Context) error {
	// Pushed before, because the agent may do it although its answer does not come.
	c.undo.push("remove the container from the guest", func(ctx context.Context) error {
		if c.deleting() && c.sandbox.endsWith(c) {
			c.sandbox.leave(c.id)
			return nil
		}
		c.sandbox.removeFromGuest(ctx, c.id)
		return nil
	})
	for _, id := range c.sandbox.left() {
		c.sandbox.removeFromGuest(ctx, id)
	}
	rootfs := c.guestRootfs
	if rootfs == "" {
		rootfs = path.Join(c.id, rootfsDir)
	}
	_, err := c.sandbox.call(ctx, callTimeout, protocol.Prepare{ContainerID: c.id, Rootfs: rootfs})
	if err != nil {
		return fmt.Errorf("prepare it in the guest: %w", err)
	}
	return nil
}

// removeFromGuest lets the agent forget a container. That it cannot is its own affair: the host's side goes all the same.
func (s *Sandbox) removeFromGuest(ctx context.Context, id string) {
	_, err := s.call(ctx, callTimeout, protocol.Remove{ContainerID: id})
	if err != nil && !errdefs.IsNotFound(err) && !s.isLost() {
		s.log.Warn("the guest keeps a container", "container", id, "error", err)
	}
}

// leave notes a container that stays in the guest, as the sandbox is about to end.
func (s *Sandbox) leave(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unremoved = append(s.unremoved, id)
}

// left takes what leave has noted: the sandbox goes on after all.
func (s *Sandbox) left() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := s.unremoved
	s.unremoved = nil
	return left
}

// startAnchor starts the container's anchor and runs the hooks that connect it.
func (c *Container) startAnchor(ctx context.Context, root string) error {
	started, err := anchor.Start(ctx, anchor.Options{
		Rootfs: root, NetNS: c.plan.NetNS, NewNetNS: c.plan.NewNetNS, Cgroup: c.sandbox.cgroup,
	})
	if err != nil {
		return err
	}
	c.anchor = started
	c.undo.push("end the anchor and what its hooks did", func(ctx context.Context) error {
		if err := started.Stop(ctx); err != nil {
			return err
		}
		c.runPoststop(ctx)
		return nil
	})
	process, err := hypervisor.NewProcess("anchor", started.PID())
	if err != nil {
		return err
	}
	if err := c.sandbox.dir.updateContainer(c.id, func(record *containerRecord) { record.Anchor = &process }); err != nil {
		return err
	}
	hooks := c.spec.Hooks
	if hooks == nil {
		return nil
	}
	//lint:ignore SA1019 deprecated in the specification, still used by tools
	if err := runHooks(ctx, hooks.Prestart, c.state(specs.StateCreating)); err != nil {
		return err
	}
	return runHooks(ctx, hooks.CreateRuntime, c.state(specs.StateCreating))
}

// runPoststop runs the hooks that take back what others did for the container. Their failure is only logged, as the OCI
// runtime specification has it.
func (c *Container) runPoststop(ctx context.Context) {
	if c.spec.Hooks == nil {
		return
	}
	if err := runHooks(ctx, c.spec.Hooks.Poststop, c.state(specs.StateStopped)); err != nil {
		c.log.Warn("poststop failed", "error", err)
	}
}

// runPoststart runs the hooks that follow the start of init, whose failure is only logged.
func (c *Container) runPoststart(ctx context.Context) {
	if c.spec.Hooks == nil {
		return
	}
	if err := runHooks(ctx, c.spec.Hooks.Poststart, c.state(specs.StateRunning)); err != nil {
		c.log.Warn("poststart failed", "error", err)
	}
}

// state is what hooks are told.
func (c *Container) state(status specs.ContainerState) specs.State {
	state := specs.State{Version: c.spec.Version, ID: c.id, Status: status, Bundle: c.bundle, Annotations: c.spec.Annotations}
	if status != specs.StateStopped {
		state.Pid = c.anchor.PID()
	}
	return state
}
