package runtime

import (
	"context"
	"errors"
	"sync"
	"testing"
)

func TestSharing(t *testing.T) {
	var s sharing[string, int]
	made := 0
	create := func(context.Context) (int, error) { made++; return made, nil }
	for range 2 {
		if got, err := s.acquire(t.Context(), "a", create); got != 1 || err != nil {
			t.Errorf("got %d, %v", got, err)
		}
	}
	if got, err := s.acquire(t.Context(), "b", create); got != 2 || err != nil {
		t.Errorf("another key: %d, %v", got, err)
	}
	if s.release("a") {
		t.Error("the first of two was the last")
	}
	if !s.release("a") {
		t.Error("the second of two was not the last")
	}
	if got, err := s.acquire(t.Context(), "a", create); got != 3 || err != nil {
		t.Errorf("made again: %d, %v", got, err)
	}
}

// TestSharingAtOnce has many users at once, the first of which cannot make the thing, and one that does not wait.
func TestSharingAtOnce(t *testing.T) {
	var s sharing[string, int]
	refuse := errors.New("refused")
	entered, fail := make(chan struct{}), make(chan struct{})
	var users sync.WaitGroup
	users.Go(func() {
		_, err := s.acquire(t.Context(), "a", func(context.Context) (int, error) {
			close(entered)
			<-fail
			return 0, refuse
		})
		if !errors.Is(err, refuse) {
			t.Errorf("the first: %v", err)
		}
	})
	<-entered
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.acquire(impatient, "a", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("who does not wait: %v", err)
	}
	made := 0 // by one at a time
	for range 8 {
		users.Go(func() {
			if got, err := s.acquire(t.Context(), "a", func(context.Context) (int, error) { made++; return 7, nil }); got != 7 || err != nil {
				t.Errorf("got %d, %v", got, err)
			}
		})
	}
	close(fail)
	users.Wait()
	if made != 1 {
		t.Errorf("made %d times", made)
	}
	for i := range 8 {
		if last := s.release("a"); last != (i == 7) {
			t.Errorf("release %d: last %t", i, last)
		}
	}
}
