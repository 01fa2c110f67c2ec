package pool

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// keepPool keeps a pool of processes that play spares until the test ends.
func keepPool(t *testing.T, role, stateDir string, size int) (stop func() error) {
	t.Helper()
	t.Setenv(roleVariable, role)
	ctx, cancel := context.WithCancel(context.Background())
	kept := make(chan error, 1)
	go func() {
		kept <- Keep(ctx, Options{
			StateDir: stateDir, Size: size, Program: os.Args[0], Arguments: []string{stateDir}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		})
	}()
	stop = func() error {
		cancel()
		select {
		case err := <-kept:
			kept <- err
			return err
		case <-time.After(endTimeout):
			return errors.New("the pool does not end")
		}
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return stop
}

// awaitDoors waits until so many spares can be asked. Nothing tells when, so this looks again.
func awaitDoors(t *testing.T, stateDir string, want int) []string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		doors, err := doorsOf(stateDir)
		if err != nil {
			t.Fatal(err)
		}
		if len(doors) == want {
			return doors
		}
		if time.Now().After(deadline) {
			t.Fatalf("spares: %v, want %d", doors, want)
		}
	}
}

// TestKeep fills a pool, and again when spares were taken or killed, and leaves nothing but what was taken.
func TestKeep(t *testing.T) {
	stateDir := newStateDir(t)
	stale := filepath.Join(Dir(stateDir), doorName(1<<30))
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stop := keepPool(t, "good", stateDir, 2)
	awaitDoors(t, stateDir, 2)
	if _, err := os.Stat(stale); err == nil {
		t.Error("a socket of nobody is left")
	}
	request, socket := newRequest(t)
	pid := askPatiently(t, stateDir, request, socket)
	taken, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Kill()
	awaitDoors(t, stateDir, 2)
	err = Keep(t.Context(), Options{StateDir: stateDir, Size: 1, Logger: slog.New(slog.DiscardHandler)})
	if !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second service: %v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(Dir(stateDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pool's directory: %v", err)
	}
	if err := alike(pid); err != nil {
		t.Errorf("what was taken: %v", err)
	}
}

// TestKeepWhatFails makes a pause between spares that come to nothing.
func TestKeepWhatFails(t *testing.T) {
	k := &keeper{log: slog.New(slog.NewTextHandler(t.Output(), nil)), children: map[*child]bool{}}
	for _, want := range []time.Duration{minPause, 2 * minPause, 4 * minPause} {
		if k.failed(errors.New("no machine")); k.pause != want {
			t.Errorf("a pause of %s, want %s", k.pause, want)
		}
	}
	for range 10 {
		k.failed(errors.New("no machine"))
	}
	if k.pause != maxPause {
		t.Errorf("a pause of %s, want %s", k.pause, maxPause)
	}
	stateDir := newStateDir(t)
	keepPool(t, "fails", stateDir, 1)
	awaitDoors(t, stateDir, 0)
}

func TestKeepSize(t *testing.T) {
	for _, size := range []int{-1, 0, 65} {
		if err := Keep(t.Context(), Options{StateDir: t.TempDir(), Size: size}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%d: %v", size, err)
		}
	}
}
