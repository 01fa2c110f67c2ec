package vsock

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
)

// listeners are those of a device beside the session port's, to be closed with it. The zero value is ready.
type listeners struct {
	mu     sync.Mutex
	open   []*acceptor
	closed bool
}

// add makes one more.
func (l *listeners) add(listen func() (*acceptor, error)) (Listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("listen for the guest: %w", net.ErrClosed)
	}
	listener, err := listen()
	if err != nil {
		return nil, fmt.Errorf("listen for the guest: %w", err)
	}
	l.open = slices.DeleteFunc(l.open, func(a *acceptor) bool { return isClosed(a.closing) })
	l.open = append(l.open, listener)
	return listener, nil
}

// close closes all of them, and makes add fail.
func (l *listeners) close() error {
	l.mu.Lock()
	open := l.open
	l.open, l.closed = nil, true
	l.mu.Unlock()
	var errs []error
	for _, listener := range open {
		errs = append(errs, listener.close())
	}
	return errors.Join(errs...)
}
