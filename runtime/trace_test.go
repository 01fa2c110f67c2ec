package runtime

import (
	"log/slog"
	"os"
	"path/filepath"
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

// TestTraces follows a sandbox up to its first exec. What comes after that is in no trace.
func TestTraces(t *testing.T) {
	w := newTestSandbox(t)
	began := time.Now()
	parts := func() []string {
		t.Helper()
		traces, err := Traces(w.state)
		if err != nil || len(traces) != 1 || traces[0].ID != "box" || traces[0].Namespace != "test" || traces[0].Began.After(began) {
			t.Fatalf("got %+v, %v", traces, err)
		}
		var shapes []string
		end := 0.0
		for _, part := range traces[0].Parts {
			shapes = append(shapes, shape(part))
			if part.BeginMS < end {
				t.Errorf("part %s begins before the last one's end: %+v", part.Name, traces[0])
			}
			end = part.BeginMS + part.MS
			for _, stage := range part.Stages {
				if stage.BeginMS < part.BeginMS || stage.BeginMS+stage.MS > end+0.2 { // rounded
					t.Errorf("stage %s is not within %s: %+v", stage.Name, part.Name, traces[0])
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

// TestTracesOfAny has state directories of which there is none, or no record, or a broken one.
func TestTracesOfAny(t *testing.T) {
	dir := t.TempDir()
	if traces, err := Traces(filepath.Join(dir, "none")); err != nil || len(traces) > 0 {
		t.Errorf("no directory: %v, %v", traces, err)
	}
	for name, record := range map[string]string{
		"beginning": "",
		"broken":    "{",
		"late":      `{"id": "late", "began": "2026-01-01T00:00:02Z"}`,
		"early":     `{"id": "early", "began": "2026-01-01T00:00:01Z"}`,
	} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if record == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name, recordFile), []byte(record), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	traces, err := Traces(dir)
	if len(traces) != 2 || traces[0].ID != "early" || traces[1].ID != "late" {
		t.Errorf("got %+v", traces)
	}
	if err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("the broken one: %v", err)
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
