package runtime

import (
	"context"
	"io"
	"net"
)

// serveConsole writes the guest's console to a visitor: what is kept of it, then what comes, without control characters.
func (s *Sandbox) serveConsole(ctx context.Context, visitor *net.UnixConn) {
	ctx, gone := context.WithCancel(ctx)
	defer gone()
	go func() { // he has nothing to say but that he goes
		_, _ = io.Copy(io.Discard, visitor)
		gone()
	}()
	var offset int64
	for {
		text, end, more := s.machine.ConsoleSince(offset)
		offset = end
		if _, err := io.WriteString(visitor, text); err != nil {
			return
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}
