package client

import (
	"fmt"

	"github.com/limpet-run/limpet/guest/protocol"
)

// maxAsked is how many names the guest may have asked for that were not answered yet.
const maxAsked = 16

// maxAskedName is the most bytes of a name that the guest asks for: those of a file's.
const maxAskedName = 255

// warningsPerSecond is how many warnings about what the guest asks for are logged, with bursts of as many.
const warningsPerSecond = 10

// warn logs what the guest can bring about as often as it likes.
func (s *Session) warn(text string, args ...any) {
	if s.warnings.Allow() {
		s.logger.Warn(text, args...)
	}
}

// giveData answers what the guest asks for by name, until the session ends. A question or an answer that a broken connection loses is
// asked again.
func (s *Session) giveData() {
	for {
		select {
		case name := <-s.asked:
			if err := s.Do(s.ctx, s.named(name)); err != nil && s.ctx.Err() == nil {
				s.warn("the guest did not take what it asked for", "name", name, "error", err)
			}
		case <-s.ctx.Done():
			return
		}
	}
}

// named is the answer to a request for data.
func (s *Session) named(name string) protocol.Data {
	if s.data == nil {
		refusal := "nothing is given to the guest"
		return protocol.Data{Name: name, Error: &refusal}
	}
	content, err := s.data(name)
	if err != nil {
		s.warn("the guest does not get what it asked for", "name", name, "error", err)
		refusal := fmt.Sprintf("not given: %v", err)
		return protocol.Data{Name: name, Error: &refusal}
	}
	return protocol.Data{Name: name, Content: content}
}
