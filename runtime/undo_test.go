package runtime

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestUndo(t *testing.T) {
	var stack undo
	var did []string
	broken := true
	for _, name := range []string{"a", "b", "c"} {
		stack.push("undo "+name, func(context.Context) error {
			did = append(did, name)
			if name == "b" && broken {
				return errors.New("busy")
			}
			return nil
		})
	}
	if err := stack.run(t.Context(), newTrace()); err == nil || !strings.Contains(err.Error(), "cannot undo b: busy") {
		t.Errorf("got %v", err)
	}
	broken = false
	times := newTrace()
	for range 2 {
		if err := stack.run(t.Context(), times); err != nil {
			t.Error(err)
		}
	}
	if len(times.stages) != 1 || times.stages[0].Name != "undo b" {
		t.Errorf("measured %v", times.stages)
	}
	if want := []string{"c", "b", "a", "b"}; !reflect.DeepEqual(did, want) {
		t.Errorf("did %v, want %v", did, want)
	}
}
