package runtime

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestTurns has as many turns as there are, and waits for the next until one is given back, the context ends, or patience does.
func TestTurns(t *testing.T) {
	const count = 3
	turns := turns{dir: t.TempDir(), count: count, patience: time.Hour}
	take := func(ctx context.Context) func() {
		t.Helper()
		done, err := turns.take(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	var taken []func()
	for range count {
		taken = append(taken, take(t.Context()))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := turns.take(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a turn too many: %v", err)
	}
	impatient := turns
	impatient.patience = time.Millisecond
	done, err := impatient.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	done()

	waited := make(chan func())
	for range count {
		go func() {
			done, err := turns.take(context.Background())
			if err != nil {
				t.Error(err)
			}
			waited <- done
		}()
	}
	for _, done := range taken {
		done()
	}
	for range count {
		(<-waited)()
	}
	for range count {
		defer take(t.Context())()
	}
}
