package standalone

import (
	"io"
	"sync"

	"github.com/limpet-run/limpet/runtime"
)

// outlet is where an output of the command goes. done is closed with it.
type outlet struct {
	io.WriteCloser
	once sync.Once
	done chan struct{}
}

func newOutlet(sink io.WriteCloser) *outlet {
	return &outlet{WriteCloser: sink, done: make(chan struct{})}
}

// Close implements io.Closer.
func (o *outlet) Close() error {
	err := o.WriteCloser.Close()
	o.once.Do(func() { close(o.done) })
	return err
}

// closeIO closes what no container has taken over.
func closeIO(ends runtime.IO) {
	if ends.Stdin != nil {
		ends.Stdin.Close()
	}
	for _, sink := range []io.WriteCloser{ends.Stdout, ends.Stderr} {
		if sink != nil {
			sink.Close()
		}
	}
}
