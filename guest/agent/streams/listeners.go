package streams

import (
	"net"
	"slices"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

// listenersPause is how often it is looked whether somebody began or ceased to listen: the kernel tells of no such event. It is what a
// client may have to wait for a port, and costs a tenth of a millisecond each time; only a host that asks causes it.
const listenersPause = 250 * time.Millisecond

// tellListeners tells the host who listens, now and after each change, until the host closes the connection.
func (s *Server) tellListeners(conn net.Conn) {
	if protocol.WriteStatus(conn, nil) != nil || conn.SetDeadline(time.Time{}) != nil {
		return
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_, _ = conn.Read(make([]byte, 1)) // whatever ends it
	}()
	pause := time.NewTicker(listenersPause)
	defer pause.Stop()
	for last, told := []protocol.Listener(nil), false; ; {
		listeners, err := s.guest.Listeners()
		if err != nil {
			s.logger.Warn("the host is told of no more listeners", "error", err)
			<-closed
			return
		}
		if !told || !slices.Equal(listeners, last) {
			if protocol.WriteListeners(conn, listeners) != nil {
				return
			}
			last, told = listeners, true
		}
		select {
		case <-pause.C:
		case <-closed:
			return
		}
	}
}
