package runtime

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// undo is a stack of what takes back the steps already done. A step that changes the host pushes its undo before the next step
// begins. Safe for concurrent use.
type undo struct {
	mu    sync.Mutex
	steps []undoStep
}

type undoStep struct {
	name string
	do   func(context.Context) error
}

// push adds what takes back the step just done; name completes "cannot ...".
func (u *undo) push(name string, do func(context.Context) error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.steps = append(u.steps, undoStep{name, do})
}

// take puts the steps of another stack on top, which is empty then.
func (u *undo) take(other *undo) {
	other.mu.Lock()
	steps := other.steps
	other.steps = nil
	other.mu.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.steps = append(u.steps, steps...)
}

// run takes back every step, the last one first, and joins the errors; each is a stage of times. A step that fails does not stop the
// others; it stays on the stack, so that another run tries it again. A run of an empty stack does nothing.
func (u *undo) run(ctx context.Context, times *trace) error {
	var failed []undoStep
	var errs []error
	for step, ok := u.pop(); ok; step, ok = u.pop() {
		done := times.stage(step.name)
		err := step.do(ctx)
		done()
		if err != nil {
			failed = append([]undoStep{step}, failed...)
			errs = append(errs, fmt.Errorf("cannot %s: %w", step.name, err))
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.steps = append(failed, u.steps...)
	return errors.Join(errs...)
}

func (u *undo) pop() (undoStep, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	last := len(u.steps) - 1
	if last < 0 {
		return undoStep{}, false
	}
	step := u.steps[last]
	u.steps = u.steps[:last]
	return step, true
}
