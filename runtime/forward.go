package runtime

import (
	"errors"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/runtime/network"
)

// forwardLoopback has connections that are made in the namespace to its loopback reach the guest's, which is how containerd reaches
// a port of a pod. A host that cannot do it does without.
func (s *Sandbox) forwardLoopback(link *connection) {
	if err := link.forward(); err != nil {
		s.log.Warn("connections to localhost in the network namespace will not reach the guest", "error", err)
	}
	go func() { // not every backend of vsock ends its connections with the machine
		<-s.lost
		link.forwarder.Close()
	}()
}

// forward begins to forward connections to the namespace's loopback.
func (l *connection) forward() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errdefs.ErrUnavailable
	}
	listeners, err := l.namespace.CatchLoopback()
	for _, listener := range listeners {
		err = errors.Join(err, l.forwarder.Listen(listener, network.OriginalPort))
	}
	return err
}
