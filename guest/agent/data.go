package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// dataPause is how long the agent waits for what it has asked the host for before it asks again: the question may have been lost with
// its connection.
const dataPause = 5 * time.Second

// data is what the agent has asked the host for.
type data struct {
	mu    sync.Mutex
	asked map[string]*question
}

type question struct {
	answered chan struct{} // closed when answer is set
	answer   protocol.Data
	waiting  int
}

func newData() *data { return &data{asked: map[string]*question{}} }

// Data asks the host for the thing of that name, and waits for it as long as ctx allows. errdefs.ErrNotFound: the host does not give it.
func (a *Agent) Data(ctx context.Context, name string) ([]byte, error) {
	q := a.data.ask(name)
	defer a.data.forget(name, q)
	again := time.NewTicker(dataPause)
	defer again.Stop()
	for {
		a.own.outbox.addEvent(protocol.DataRequest{Name: name})
		select {
		case <-q.answered:
			if q.answer.Error != nil {
				return nil, fmt.Errorf("data %q of the host: %w: %w", name, errors.New(*q.answer.Error), errdefs.ErrNotFound)
			}
			return q.answer.Content, nil
		case <-again.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("data %q of the host: no answer: %w", name, ctx.Err())
		}
	}
}

func (d *data) ask(name string) *question {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.asked[name]
	if q == nil {
		q = &question{answered: make(chan struct{})}
		d.asked[name] = q
	}
	q.waiting++
	return q
}

// forget gives a question up. One that was answered is asked anew the next time.
func (d *data) forget(name string, q *question) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if q.waiting--; q.waiting == 0 && d.asked[name] == q {
		delete(d.asked, name)
	}
}

// answer takes what the host gives. What nobody asked for is dropped: it was asked for twice.
func (d *data) answer(m protocol.Data) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if q := d.asked[m.Name]; q != nil {
		q.answer = m
		close(q.answered)
		delete(d.asked, m.Name)
	}
}
