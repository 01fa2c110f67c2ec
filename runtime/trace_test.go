package runtime

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

// shape is a part without its times.
func shape(part TracePart) string {
	var stages []string
	for _, stage := range part.Stages {
		stages = append(stages, stage.Name)
	}
	slices.Sort(stages) // those that run at the same time begin in any order
	return part.Name + ": " + strings.Join(stages, " ")
}

// TestTrace follows a sandbox up to its first exec. What comes after that is in no trace.
func TestTrace(t *testing.T) {
	w := newTestSandbox(t)
	began := time.Now()
	parts := func() []string {
		t.Helper()
		found, err := FindSandbox(w.state, "test", "box")
		trace := found.Trace()
		if err != nil || trace.ID != "box" || trace.Namespace != "test" || trace.Began.After(began) {
			t.Fatalf("got %+v, %v", found, err)
		}
		var shapes []string
		end := 0.0
		for _, part := range trace.Parts {
			shapes = append(shapes, shape(part))
			if part.BeginMS < end {
				t.Errorf("part %s begins before the last one's end: %+v", part.Name, trace)
			}
			end = part.BeginMS + part.MS
			for _, stage := range part.Stages {
				if stage.BeginMS < part.BeginMS || stage.BeginMS+stage.MS > end+0.2 { // rounded
					t.Errorf("stage %s is not within %s: %+v", stage.Name, part.Name, trace)
				}
			}
		}
		return shapes
	}
	want := []string{"sandbox: agent cgroup state"}
	if got := parts(); !slices.Equal(got, want) {
		t.Errorf("a sandbox: %q", got)
	}
	container := w.create(t, IO{})
	if want = append(want, "create: anchor prepare rootfs size"); !slices.Equal(parts(), want) {
		t.Errorf("created: %q", parts())
	}
	if err := container.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want = append(want, "start: run streams"); !slices.Equal(parts(), want) {
		t.Errorf("started: %q", parts())
	}
	want = append(want, "exec: run streams")
	for _, id := range []string{"e1", "e2"} {
		exec, err := container.Exec(t.Context(), ExecOptions{ID: id, Spec: trueProcess})
		if err != nil {
			t.Fatal(err)
		}
		if err := exec.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := parts(); !slices.Equal(got, want) {
			t.Errorf("after exec %s: %q", id, got)
		}
	}
}

func TestTraceLog(t *testing.T) {
	times := newTrace()
	times.stage("one")()
	times.stage("two")()
	var log strings.Builder
	times.log(t.Context(), slog.New(slog.NewTextHandler(&log, nil)), "sandbox started")
	for _, part := range []string{`msg="sandbox started" ms=`, " stage_ms.one=", " stage_ms.two="} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("%s lacks %q", log.String(), part)
		}
	}
}
