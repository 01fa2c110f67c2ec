package runtime

import (
	"errors"
	"time"
)

// ExitRecord says how a container's init ended.
type ExitRecord struct {
	Code   uint32    `json:"code"` // 0 to 255; 128+n for signal n
	At     time.Time `json:"at"`
	Reason string    `json:"reason"` // see ExitStatus
}

// note writes down what only those who ask from outside want to know, the trace among it: a failure is logged.
func (s *Sandbox) note(change func(*record)) {
	err := s.dir.update(func(record *record) {
		change(record)
		record.Parts = s.trace().Parts
	})
	if err != nil && !errors.Is(err, errRemoved) {
		s.log.Warn("limpet ps does not show what has become of the sandbox", "error", err)
	}
}

// note writes down what has become of the container's init, unless the container has been forgotten. What is written last is what is so,
// however many write at once: it is looked at with the record's lock held.
func (c *Container) note() {
	c.sandbox.note(func(record *record) {
		known, ok := record.Containers[c.id]
		if !ok {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.life.state == containerCreating {
			return
		}
		known.State = c.init.state()
		if known.State == StateStopped {
			known.Exit = &ExitRecord{c.init.exit.Code, c.init.exit.At, c.init.exit.Reason}
		}
		record.Containers[c.id] = known
	})
}
