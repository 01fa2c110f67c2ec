package qemu

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOnLastThread spoils many threads, and never the one by which /proc/self is known.
func TestOnLastThread(t *testing.T) {
	spoilt := errors.New("spoilt")
	results := make(chan error)
	const calls = 100
	for range calls {
		go func() {
			results <- onLastThread(func() error {
				if unix.Gettid() == unix.Getpid() {
					t.Error("it is called on the first thread")
				}
				return spoilt
			})
		}()
	}
	for range calls {
		if err := <-results; err != spoilt {
			t.Errorf("got %v", err)
		}
	}
}
