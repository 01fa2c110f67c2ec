package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/hypervisor/internal/child"
)

const (
	// daemonTimeout bounds the daemon's start, which takes milliseconds.
	daemonTimeout = 10 * time.Second
	// dialTimeout bounds a dial that the context does not. A guest that does not answer is lost or hostile.
	dialTimeout = 10 * time.Second
	// maxReply bounds the daemon's "OK 4294967295\n".
	maxReply = 16
	// credit is how many bytes of a connection the daemon takes before the host has read them: with four times the daemon's own 64 KiB
	// the guest waits less often, and sends a fifth faster. Linux sends no more than its own buffer ahead, 256 KiB, and the daemon
	// tells it only after three quarters of credit that there is room again, so that with 512 KiB they would wait for each other.
	credit = 256 << 10
	// listenGap is awaited between two attempts to connect to a socket that has its name and does not listen yet.
	listenGap = time.Millisecond
)

// The daemon's names in the device's directory.
const (
	controlSocket = "vhost-user" // where the machine monitor connects
	dialSocket    = "vsock"      // where the host dials the guest; "vsock_PORT" is where the guest reaches the host
)

// socketDir is the device's directory, which may be renamed: this process reaches it by a descriptor, and the daemon works in it.
type socketDir struct{ file *os.File }

func openSocketDir(path string) (socketDir, error) {
	file, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	return socketDir{file}, err
}

// path is that of a name in the directory, for this process and as long as the directory is open.
func (d socketDir) path(name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.file.Fd(), name)
}

func (d socketDir) close() error { return d.file.Close() }

// daemonDevice is a Device by vhost-device-vsock. Facts about that program which this relies on: a guest's dial of the host's port
// P is a connection to the unix socket <uds>_P, refused if nobody listens; the host dials by writing "CONNECT P\n" to <uds>, in one
// piece, and reading "OK n\n", before which nothing else may be sent. It serves one guest, so that its CIDs need not be unique.
type daemonDevice struct {
	cid     uint32
	dir     socketDir
	daemon  *child.Child
	control *os.File
	*acceptor
	listeners listeners
	close     func() error
}

func newDaemonDevice(ctx context.Context, options Options) (Device, error) {
	program, err := findDaemon(options.Daemon)
	if err != nil {
		return nil, err
	}
	dir, err := openSocketDir(options.Dir)
	if err != nil {
		return nil, err
	}
	cid := randomCID()
	session, err := listenIn(dir, options.SessionPortBase+cid)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on the session port: %w", err), dir.close())
	}
	daemon, control, err := startDaemon(ctx, program, options, cid)
	if err != nil {
		return nil, errors.Join(err, session.close(), dir.close())
	}
	d := &daemonDevice{
		cid:      cid,
		dir:      dir,
		daemon:   daemon,
		control:  control,
		acceptor: session,
	}
	d.close = sync.OnceValue(func() error {
		daemon.Kill()
		<-daemon.Done()
		return errors.Join(d.listeners.close(), d.acceptor.close(), control.Close(), dir.close())
	})
	go func() { // without the daemon no guest dials any more, and Accept says so
		<-daemon.Done()
		_ = errors.Join(d.listeners.close(), d.acceptor.close()) // d.close has the error
	}()
	return d, nil
}

// listenIn listens on a port of the host, as the guest of the daemon in that directory sees it.
func listenIn(dir socketDir, port uint32) (*acceptor, error) {
	path := dir.path(fmt.Sprintf("%s_%d", dialSocket, port))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	everybody := func(net.Conn) bool { return true } // the daemon has one guest, and the directory is ours
	return newAcceptor(newDaemonListener(listener, maxPortConns), port, everybody), nil
}

// Listen implements Device. The guest has the ports to itself.
func (d *daemonDevice) Listen(port uint32) (Listener, error) {
	return d.listeners.add(func() (*acceptor, error) { return listenIn(d.dir, port) })
}

func findDaemon(configured string) (string, error) {
	path, err := exec.LookPath(configured)
	if err != nil {
		return "", fmt.Errorf("vhost-device-vsock not found: %w: run `modprobe vhost_vsock` for the kernel's, or install the package "+
			"vhost-device-vsock and set its path in the configuration: %w", err, errdefs.ErrNotFound)
	}
	return filepath.Abs(path) // it is started in another directory
}

// daemonArguments are those of a daemon that works in the device's directory.
func daemonArguments(cid uint32) []string {
	return []string{
		fmt.Sprintf("--guest-cid=%d", cid),
		"--socket=" + controlSocket,
		"--uds-path=" + dialSocket,
		fmt.Sprintf("--tx-buffer-size=%d", credit),
	}
}

var errDaemonEnded = errors.New("it has ended")

// startDaemon runs the daemon and connects to its control socket, on which it waits for the machine monitor.
func startDaemon(ctx context.Context, program string, options Options, cid uint32) (*child.Child, *os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, daemonTimeout)
	defer cancel()
	appearance, err := watchDirectory(options.Dir)
	if err != nil {
		return nil, nil, err
	}
	defer appearance.close()
	command := exec.Command(program, daemonArguments(cid)...)
	command.Dir = options.Dir
	daemon, err := child.Start("vhost-device-vsock", command, options.Cgroup)
	if err != nil {
		return nil, nil, err
	}
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	go func() { // a daemon that ends makes no socket
		select {
		case <-daemon.Done():
			abort(errDaemonEnded)
		case <-ctx.Done():
		}
	}()
	err = appearance.await(ctx, controlSocket)
	var control *os.File
	if err == nil {
		control, err = connectControl(ctx, filepath.Join(options.Dir, controlSocket))
	}
	if err != nil {
		err = daemon.Explain(fmt.Errorf("connect to the daemon: %w", err))
		daemon.Kill()
		<-daemon.Done()
		return nil, nil, err
	}
	return daemon, control, nil
}

// connectControl connects to a socket that has just appeared. It appears by bind; that the daemon listens, which is its next system
// call, cannot be watched.
func connectControl(ctx context.Context, path string) (*os.File, error) {
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "unix", path)
		if err == nil {
			defer conn.Close() // File duplicates
			return conn.(*net.UnixConn).File()
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			return nil, err
		}
		select {
		case <-time.After(listenGap):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// CID implements hypervisor.VsockDevice.
func (d *daemonDevice) CID() uint32 { return d.cid }

// Attachment implements hypervisor.VsockDevice.
func (d *daemonDevice) Attachment() hypervisor.VsockAttachment {
	return hypervisor.VsockAttachment{VhostUser: true, File: d.control}
}

// Processes implements hypervisor.VsockDevice.
func (d *daemonDevice) Processes() []hypervisor.Process {
	return []hypervisor.Process{d.daemon.Process()}
}

// Dial implements Device.
func (d *daemonDevice) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := dialThrough(ctx, d.dir.path(dialSocket), port)
	if err != nil {
		return nil, dialError(port, err)
	}
	return newDaemonConn(conn.(*net.UnixConn), func() {}), nil
}

// dialThrough connects to the daemon's socket and has it connect to the guest's port.
func dialThrough(ctx context.Context, path string, port uint32) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // fails only on a closed connection
	err = request(conn, port)
	if !stop() {
		err = ctx.Err() // its deadline may be set at any time now
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// request asks for the guest's port and reads the answer, and nothing after it.
func request(conn net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	reply := make([]byte, 0, maxReply)
	for len(reply) < maxReply {
		if _, err := conn.Read(reply[len(reply) : len(reply)+1]); err != nil {
			return fmt.Errorf("no answer from the guest: %w", err)
		}
		reply = reply[:len(reply)+1]
		if reply[len(reply)-1] == '\n' {
			break
		}
	}
	if !strings.HasPrefix(string(reply), "OK ") || reply[len(reply)-1] != '\n' {
		return fmt.Errorf("the daemon answered %q", reply)
	}
	return nil
}

// dialError types the error of a dial, unless it is the caller's context.
func dialError(port uint32, err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("dial the guest's port %d: %w", port, err)
	}
	return fmt.Errorf("dial the guest's port %d: %w: %w", port, err, errdefs.ErrUnavailable)
}

// Close implements Device.
func (d *daemonDevice) Close() error { return d.close() }
