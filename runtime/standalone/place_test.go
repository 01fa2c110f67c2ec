package standalone

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// TestPlace has a name that can be had by one run at a time.
func TestPlace(t *testing.T) {
	stateDir := t.TempDir()
	claim := func() (*place, error) { return claimPlace(t.Context(), stateDir, Record{Request: Request{Name: "a"}}) }
	first, err := claim()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claim(); !errdefs.IsAlreadyExists(err) {
		t.Errorf("of a run that is there: %v", err)
	}
	if err := Remove(t.Context(), stateDir, "a", false); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("removed although it runs: %v", err)
	}
	if err := first.update(func(record *Record) { record.Exit = &Exit{Code: 3} }); err != nil {
		t.Fatal(err)
	}
	first.release()
	if _, err := claim(); !errdefs.IsAlreadyExists(err) {
		t.Errorf("of one that has ended: %v", err)
	}
	if record, err := Find(stateDir, "a"); err != nil || record.Exit.Code != 3 {
		t.Errorf("got %+v, %v", record, err)
	}
	if err := Stop(t.Context(), stateDir, "a", 0); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("stopped although it has ended: %v", err)
	}
	if err := Remove(t.Context(), stateDir, "a", false); err != nil {
		t.Error(err)
	}
	if err := Remove(t.Context(), stateDir, "a", true); !errdefs.IsNotFound(err) {
		t.Errorf("removed again: %v", err)
	}
	again, err := claim()
	if err != nil {
		t.Fatal(err)
	}
	again.release() // as if it was killed
	if last, err := claim(); err != nil {
		t.Error(err)
	} else if err := last.remove(); err != nil {
		t.Error(err)
	}
}

func TestSweep(t *testing.T) {
	stateDir := t.TempDir()
	for i, record := range []Record{
		{Request: Request{Name: "held"}},
		{Request: Request{Name: "foreground"}},
		{Request: Request{Name: "background"}, Detached: true},
		{Request: Request{Name: "background-rm", Remove: true}, Detached: true},
		{Request: Request{Name: "ended"}, Detached: true, Exit: &Exit{Code: 7}},
	} {
		record.Began = time.Unix(int64(i), 0)
		p, err := claimPlace(t.Context(), stateDir, record)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			defer p.release()
			continue
		}
		p.release()
	}
	if err := os.Mkdir(placePath(stateDir, "empty"), 0o700); err != nil { // its maker was killed at once
		t.Fatal(err)
	}
	for range 2 {
		if err := Sweep(t.Context(), stateDir); err != nil {
			t.Fatal(err)
		}
		records, err := List(stateDir)
		if err != nil {
			t.Fatal(err)
		}
		var got string
		for _, record := range records {
			got += record.Request.Name
			if record.Exit != nil {
				got += fmt.Sprint(" ", record.Exit.Code)
			}
			got += "; "
		}
		if want := "held; background 125; ended 7; "; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if paths, err := places(stateDir); err != nil || len(paths) != 3 {
		t.Errorf("got %q, %v", paths, err)
	}
}

// TestPlaceCrowd makes and sweeps places at the same time: whoever has one has it alone.
func TestPlaceCrowd(t *testing.T) {
	stateDir := t.TempDir()
	var crowd sync.WaitGroup
	var mu sync.Mutex
	held := false
	for range 8 {
		crowd.Go(func() {
			for range 50 {
				if err := Sweep(t.Context(), stateDir); err != nil {
					t.Error(err)
				}
				p, err := claimPlace(t.Context(), stateDir, Record{Request: Request{Name: "a"}})
				if errdefs.IsAlreadyExists(err) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				twice := held
				held = true
				mu.Unlock()
				if twice {
					t.Error("it is held twice")
				}
				mu.Lock()
				held = false
				mu.Unlock()
				if err := p.remove(); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Error(err)
				}
			}
		})
	}
	crowd.Wait()
}
