package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// doorSuffix ends the names of sockets.
	doorSuffix = ".sock"
	// askerTimeout is how long an asker may be silent. It has the request ready when it connects, and asks for nothing between.
	askerTimeout = time.Second
)

// doorName is the name of a spare's socket.
func doorName(pid int) string { return fmt.Sprint("spare-", pid, doorSuffix) }

// errStale is why a spare ends that is asked by somebody newer than itself.
var errStale = errors.New("it is out of date")

// Spare is what a process needs to know of itself to be a spare.
type Spare struct {
	StateDir string
	Config   string // the digest of its configuration
	// Fresh computes the digest anew: if it is another one by now, the spare is out of date.
	Fresh  func() (string, error)
	Logger *slog.Logger
}

// Door is where a spare waits for its asker.
type Door struct {
	spare    Spare
	listener *net.UnixListener
	build    string
}

// Open makes the spare's socket: from now on it can be asked. The caller closes it.
func (s Spare) Open() (*Door, error) {
	build, err := buildOf("self")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(Dir(s.StateDir), doorName(os.Getpid()))
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) { // of one that was killed
		return nil, err
	}
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("make the spare's socket: %w", err)
	}
	return &Door{s, listener, build}, nil
}

// Close ends it and removes the socket.
func (d *Door) Close() error {
	if err := d.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Await waits for an asker whose request fits, has take make the process his, and tells him. It returns the request with its socket, which is
// the caller's; the door is closed then. Without an error of take's, it fails when the context ends, or because the spare is out of date.
func (d *Door) Await(ctx context.Context, take func(request Request, asker int) error) (Request, *os.File, error) {
	defer context.AfterFunc(ctx, func() { _ = d.Close() })()
	for {
		conn, err := d.listener.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return Request{}, nil, err
		}
		request, socket, err := d.converse(link{conn}, take)
		if closeErr := conn.Close(); err == nil || errors.Is(err, errBroken) || errors.Is(err, errStale) {
			return request, socket, errors.Join(err, closeErr, d.Close())
		}
		d.spare.Logger.Info("not handed over", "reason", err)
	}
}

// errBroken is why a spare ends that has not become what it was to be.
var errBroken = errors.New("the spare is half another's")

// converse has the conversation with an asker. On error there is no socket.
func (d *Door) converse(asker link, take func(Request, int) error) (request Request, socket *os.File, err error) {
	peer, err := asker.peer()
	if err != nil {
		return request, nil, err
	}
	defer func() {
		if err != nil && socket != nil {
			err = errors.Join(err, socket.Close())
			socket = nil
		}
	}()
	if socket, err = asker.receive(askerTimeout, &request); err != nil {
		return request, socket, err
	}
	if err := d.admit(request, socket, int(peer.Pid)); err != nil {
		return request, socket, errors.Join(err, asker.send(askerTimeout, word{Refused: err.Error()}, nil))
	}
	if err := asker.send(askerTimeout, word{Ready: true}, nil); err != nil {
		return request, socket, err
	}
	var answer word
	if _, err := asker.receive(askerTimeout, &answer); err != nil {
		return request, socket, err
	}
	if !answer.Go {
		return request, socket, fmt.Errorf("the asker does not go on: %w", errdefs.ErrInvalidArgument)
	}
	if err := d.Close(); err != nil { // nobody else is to find it
		return request, socket, fmt.Errorf("%w: %w", errBroken, err)
	}
	if err := take(request, int(peer.Pid)); err != nil {
		d.spare.Logger.Error("not handed over", "reason", err) // now: the asker kills who does not come along
		return request, socket, errors.Join(fmt.Errorf("%w: %w", errBroken, err), asker.send(askerTimeout, word{Refused: err.Error()}, nil))
	}
	if err := asker.send(askerTimeout, word{Taken: true}, nil); err != nil {
		return request, socket, fmt.Errorf("%w: %w", errBroken, err)
	}
	return request, socket, nil
}

// admit tells why the asker's request does not fit this process.
func (d *Door) admit(request Request, socket *os.File, asker int) error {
	if err := request.check(); err != nil {
		return err
	}
	if err := checkListens(socket); err != nil {
		return err
	}
	build, err := buildOf(fmt.Sprint(asker))
	if err != nil {
		return err
	}
	if build != d.build {
		return d.stale("the program is another one", func() (bool, error) { // one that has taken this one's place
			path, err := os.Executable()
			if err != nil {
				return false, err
			}
			now, err := identityOf(path)
			return now != d.build || errors.Is(err, os.ErrNotExist), nil
		})
	}
	if request.Config != d.spare.Config {
		return d.stale("the configuration is another one", func() (bool, error) {
			now, err := d.spare.Fresh()
			return now != d.spare.Config, err
		})
	}
	if err := alike(asker); err != nil {
		return err
	}
	return checkLimits(asker)
}

// stale is why an asker is refused; it is errStale as well if the spare itself is out of date.
func (d *Door) stale(why string, outOfDate func() (bool, error)) error {
	is, err := outOfDate()
	if err != nil {
		return fmt.Errorf("%s: %w", why, err)
	}
	if is {
		return fmt.Errorf("%s: %w", why, errStale)
	}
	return fmt.Errorf("%s: %w", why, errdefs.ErrFailedPrecondition)
}

// buildOf names the program that a process runs: two that run the same file have the same. The process is a pid, or "self".
func buildOf(process string) (string, error) { return identityOf("/proc/" + process + "/exe") }

func identityOf(path string) (string, error) {
	var info unix.Stat_t
	if err := unix.Stat(path, &info); err != nil {
		return "", fmt.Errorf("look at the program %s: %w", path, err)
	}
	return fmt.Sprint(info.Dev, " ", info.Ino, " ", info.Size, " ", info.Mtim), nil
}
