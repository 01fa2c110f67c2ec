package vsock

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watch tells of new names in a directory (inotify).
type watch struct{ file *os.File }

// watchDirectory begins to watch: what is made from now on is not missed.
func watchDirectory(dir string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	w := &watch{file: os.NewFile(uintptr(fd), "inotify")}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE); err != nil {
		w.close()
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	return w, nil
}

// close cannot fail on a file that nothing was written to.
func (w *watch) close() { _ = w.file.Close() }

// await returns when the name has been made. It can be called once.
func (w *watch) await(ctx context.Context, name string) error {
	stop := context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) }) // fails only on a closed file
	defer stop()
	events := make([]byte, 4096) // inotify(7): at least one event of sizeof(inotify_event) + NAME_MAX + 1
	for {
		n, err := w.file.Read(events)
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the socket %s: %w", name, context.Cause(ctx))
		}
		if err != nil {
			return fmt.Errorf("wait for the socket %s: %w", name, err)
		}
		if names(events[:n])[name] {
			return nil
		}
	}
}

// names parses inotify events: watch, mask, cookie and the length of the name, 32 bits each, then the name, padded with zeros.
func names(events []byte) map[string]bool {
	found := map[string]bool{}
	for len(events) >= unix.SizeofInotifyEvent {
		length := int(binary.NativeEndian.Uint32(events[12:]))
		events = events[unix.SizeofInotifyEvent:]
		length = min(length, len(events))
		name, _, _ := bytes.Cut(events[:length], []byte{0})
		found[string(name)] = true
		events = events[length:]
	}
	return found
}
