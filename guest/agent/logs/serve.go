package logs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

// maxReaders bounds the readers of the log, each of which costs two goroutines.
const maxReaders = 16

// Serve tells the log, and that of the kernel, to whoever connects, until the listener fails. It must accept only the host's. openKernel
// opens the kernel's log (OpenKernel), for each reader anew.
func (l *Log) Serve(listener net.Listener, openKernel func() (io.ReadCloser, error)) error {
	readers := make(chan struct{}, maxReaders)
	for {
		conn, err := listener.Accept()
		if err != nil {
			return fmt.Errorf("accept a reader of the log: %w", err)
		}
		select {
		case readers <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		go func() {
			defer func() { <-readers }()
			defer conn.Close()
			l.serve(conn, openKernel)
		}()
	}
}

// serve tells one reader until it hangs up.
func (l *Log) serve(conn net.Conn, openKernel func() (io.ReadCloser, error)) {
	lines := &lineWriter{frames: protocol.NewWriter(conn)}
	var tellers sync.WaitGroup
	defer tellers.Wait()
	ctx, hangUp := context.WithCancel(context.Background())
	defer hangUp()
	kernel, err := openKernel()
	if err != nil {
		_ = lineHandler(lines, "kernel").Handle(ctx, slog.NewRecord(time.Now(), slog.LevelError, err.Error(), 0)) // the reader has gone
	} else {
		defer kernel.Close() // which ends its reading
		tellers.Go(func() { tellKernel(kernel, lineHandler(lines, "kernel")) })
	}
	tellers.Go(func() { l.tell(ctx, lines) })
	_, _ = conn.Read(make([]byte, 1)) // whatever ends it
	conn.Close()                      // which ends a write that waits
}

// tell tells what is kept and what comes.
func (l *Log) tell(ctx context.Context, to *lineWriter) {
	for number := uint64(0); ; {
		lines, lost, next, changed := l.from(number)
		number = next
		if tellLost(ctx, lineHandler(to, "agent"), lost) != nil {
			return
		}
		for _, line := range lines {
			if _, err := to.Write(line); err != nil {
				return
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// tellLost says how many lines are missing, if any are.
func tellLost(ctx context.Context, to slog.Handler, lost uint64) error {
	if lost == 0 {
		return nil
	}
	record := slog.NewRecord(time.Now(), slog.LevelWarn, "lines lost", 0)
	record.AddAttrs(slog.Uint64("lines", lost))
	return to.Handle(ctx, record)
}

// lineHandler makes lines of records.
func lineHandler(to io.Writer, source string) slog.Handler {
	return slog.NewJSONHandler(to, &slog.HandlerOptions{Level: slog.LevelDebug}).WithAttrs([]slog.Attr{slog.String("source", source)})
}

// lineWriter sends each line that is written to it as a frame. One that is too long is cut off, and so no JSON: it is left out.
type lineWriter struct {
	mu     sync.Mutex
	frames *protocol.Writer
}

func (w *lineWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := bytes.TrimSuffix(line, []byte{'\n'})
	if len(text) > protocol.MaxLogLine {
		return len(line), nil
	}
	return len(line), protocol.WriteLogLine(w.frames, text)
}
