package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// Runtimes that the harness knows by name. Any other runtime works too.
const (
	Limpet = "io.containerd.limpet.v2"
	Runc   = "io.containerd.runc.v2"
)

// Image is the name of the image that every container is made of: busybox and its applets.
const Image = "limpet.test/busybox:latest"

const (
	// runPrefix begins the names of a run's directory and namespaces.
	runPrefix = "lt"
	// startTimeout is how long containerd may take to say that it is ready. It takes less than a second on an idle host.
	startTimeout = 60 * time.Second
	// stopTimeout is how long it may take to end.
	stopTimeout = 30 * time.Second
)

// Daemon is a private containerd: its own root, state, sockets and configuration, no part shared with another one. It
// runs in a network namespace of its own, so that bridges, rules and ports of the run are nobody else's.
type Daemon struct {
	// Dir is the directory of the run, removed by Stop.
	Dir string
	// Namespace is the containerd namespace of every container of the run. It is unique on this host.
	Namespace string

	*Client
	Build  Build // what it runs
	cmd    *exec.Cmd
	exited chan struct{} // closed when containerd has ended
}

// Start starts a containerd with the binaries of build, waits until it serves, and imports Image. The caller stops it.
func Start(ctx context.Context, build Build) (_ *Daemon, err error) {
	// Not below os.TempDir: the paths of unix sockets have to stay below 108 bytes.
	dir, err := os.MkdirTemp("/tmp", runPrefix)
	if err != nil {
		return nil, err
	}
	d := &Daemon{Dir: dir, Namespace: filepath.Base(dir), Build: build}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Stop())
		}
	}()
	for _, sub := range []string{d.StateDir(), d.sockets(), d.temporary()} {
		if err := os.Mkdir(sub, 0o700); err != nil {
			return nil, err
		}
	}
	if err := d.makeNetwork(); err != nil {
		return nil, err
	}
	if err := d.writeConfig(); err != nil {
		return nil, err
	}
	if err := d.WriteLimpetConfig(d.ConfigPath(), nil); err != nil {
		return nil, err
	}
	if err := d.writePodConfig(); err != nil {
		return nil, err
	}
	if err := d.start(ctx); err != nil {
		return nil, fmt.Errorf("start containerd: %w; its log ends:\n%s", err, d.LogTail())
	}
	if d.Client, err = dial(d.Address(), d.Namespace); err != nil {
		return nil, err
	}
	if result := d.Ctr(ctx, "image", "import", "--local", build.Path("busybox.tar")); result.Err() != nil {
		return nil, fmt.Errorf("import %s: %w", build.Path("busybox.tar"), result.Err())
	}
	return d, d.preparePods(ctx)
}

// Address is the path of containerd's socket.
func (d *Daemon) Address() string { return filepath.Join(d.Dir, "c.sock") }

// StateDir is the state directory of limpet's sandboxes in this run.
func (d *Daemon) StateDir() string { return filepath.Join(d.Dir, "l") }

// TemplateDir is where the run's templates are.
func (d *Daemon) TemplateDir() string { return filepath.Join(d.Dir, "p") }

// ConfigPath is the limpet configuration of the run.
func (d *Daemon) ConfigPath() string { return filepath.Join(d.Dir, "limpet.toml") }

// temporary is where containerd and the shims make temporary files.
func (d *Daemon) temporary() string { return filepath.Join(d.Dir, "t") }

func (d *Daemon) sockets() string { return filepath.Join(d.Dir, "s") }

func (d *Daemon) logPath() string { return filepath.Join(d.Dir, "containerd.log") }

// Pid is containerd's process id.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

// Log returns what containerd and the shims, which log through it, have written so far.
func (d *Daemon) Log() string {
	log, err := os.ReadFile(d.logPath())
	if err != nil {
		return err.Error()
	}
	return string(log)
}

// LogTail returns the last lines of Log, at most 8 KiB.
func (d *Daemon) LogTail() string {
	log := d.Log()
	return log[max(0, len(log)-8<<10):]
}

func (d *Daemon) writeConfig() error {
	config, err := toml.Marshal(map[string]any{
		"version": 4,
		"root":    filepath.Join(d.Dir, "root"),
		"state":   filepath.Join(d.Dir, "state"),
		// Both have well-known paths on the host otherwise.
		"disabled_plugins": []string{"io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"},
		"plugins": map[string]any{
			"io.containerd.server.v1.grpc":  map[string]any{"address": d.Address()},
			"io.containerd.server.v1.ttrpc": map[string]any{"address": d.Address() + ".ttrpc"},
			"io.containerd.shim.v1.manager": map[string]any{"socket_dir": d.sockets()},
			// How often it looks for containers to be restarted.
			"io.containerd.monitor.container.v1.restart": map[string]any{"interval": "1s"},
			// Where the kernel cannot map the owners of a root file system's files, they are changed.
			"io.containerd.snapshotter.v1.overlayfs": map[string]any{"slow_chown": true},
			"io.containerd.cri.v1.images":            map[string]any{"pinned_images": map[string]any{"sandbox": pauseImage}},
			"io.containerd.cri.v1.runtime":           d.podConfig(),
		},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.Dir, "config.toml"), config, 0o600)
}

// start starts the process and waits until it says, as to systemd, that it is ready.
func (d *Daemon) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := os.Remove(filepath.Join(d.Dir, "notify.sock")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(d.Dir, "notify.sock"), Net: "unixgram"})
	if err != nil {
		return err
	}
	defer notify.Close()
	log, err := os.OpenFile(d.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()

	cmd := d.Command(context.Background(), d.Build.Path("bin/containerd"),
		"--config", filepath.Join(d.Dir, "config.toml"), "--log-level", "trace")
	cmd.Env = append(os.Environ(),
		"LIMPET_CONFIG="+d.ConfigPath(), // for clients that cannot name it
		"TMPDIR="+d.temporary(),
		"PATH="+d.Build.Path("bin")+":"+os.Getenv("PATH"),
		"NOTIFY_SOCKET="+notify.LocalAddr().String())
	cmd.Stdout, cmd.Stderr = log, log
	// Its own process group: a Ctrl-C for the test run is not for containerd, which the test run stops itself.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	d.cmd, d.exited = cmd, exited
	go func() {
		_ = cmd.Wait() // how it ended does not matter, its log says why
		close(exited)
	}()

	ready := make(chan error, 1)
	go func() { ready <- awaitReady(notify) }()
	select {
	case err := <-ready:
		return err
	case <-d.exited:
		return errors.New("it ended")
	case <-ctx.Done():
		return fmt.Errorf("it is not ready: %w", ctx.Err())
	}
}

// awaitReady reads notifications as sd_notify(3) describes them until one says READY=1.
func awaitReady(notify *net.UnixConn) error {
	message := make([]byte, 4096)
	for {
		n, err := notify.Read(message)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(message[:n])) {
			if strings.TrimSpace(line) == "READY=1" {
				return nil
			}
		}
	}
}

// Kill kills containerd as a crash would, and waits for its end. Shims and containers live on.
func (d *Daemon) Kill() error {
	if err := d.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill containerd: %w", err)
	}
	<-d.exited
	return nil
}

// Restart starts containerd again after Kill and waits until it serves the run's client again.
func (d *Daemon) Restart(ctx context.Context) error {
	if err := d.start(ctx); err != nil {
		return fmt.Errorf("start containerd again: %w; its log ends:\n%s", err, d.LogTail())
	}
	if err := d.awaitConnection(ctx); err != nil {
		return err
	}
	return d.awaitPods(ctx)
}

// Stop ends containerd and removes the directory of the run. Containers have to be gone before; processes that they have left
// behind are killed. It may be called more than once.
func (d *Daemon) Stop() error {
	var errs []error
	if d.Client != nil {
		errs = append(errs, d.Client.Close())
		d.Client = nil
	}
	if d.cmd != nil {
		errs = append(errs, d.end(), d.killLeft())
		d.cmd = nil
	}
	errs = append(errs, d.removeNetwork())
	// A mount that was left behind would have its files removed with the directory.
	mounts, err := mountPoints(d.Dir)
	if err != nil || len(mounts) > 0 {
		return errors.Join(append(errs, err, fmt.Errorf("%s is kept, something is still mounted there: %q", d.Dir, mounts))...)
	}
	return errors.Join(append(errs, os.RemoveAll(d.Dir))...)
}

// killLeft kills what still runs of the run.
func (d *Daemon) killLeft() error {
	left, err := d.Processes()
	errs := []error{err}
	for _, process := range left {
		err := syscall.Kill(process.PID, syscall.SIGKILL)
		errs = append(errs, fmt.Errorf("process %s was left and had to be killed (%v)", process, err))
	}
	return errors.Join(errs...)
}

func (d *Daemon) end() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-d.exited:
		return nil
	case <-time.After(stopTimeout):
	}
	err := d.cmd.Process.Kill()
	<-d.exited
	return errors.Join(fmt.Errorf("containerd ignored SIGTERM for %s and was killed", stopTimeout), err)
}
