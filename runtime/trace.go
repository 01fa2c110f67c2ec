package runtime

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Trace is how long a sandbox took to start, up to its first exec. It is kept in the state directory.
type Trace struct {
	Namespace string      `json:"namespace"`
	ID        string      `json:"id"`
	Began     time.Time   `json:"began"`
	Parts     []TracePart `json:"parts"`
}

// TracePart is what was done for one call: the start of the sandbox, the creation and the start of the first container, the start
// of the first exec; in that order, as far as it has come.
type TracePart struct {
	Name string `json:"name"` // PartSandbox, PartCreate, PartStart or PartExec
	Span
	Stages []TraceStage `json:"stages"`
}

// TraceStage is a step of a part. Some run at the same time.
type TraceStage struct {
	Name string `json:"name"`
	Span
}

// Span is when something was done: milliseconds, from the beginning of the sandbox and from its own.
type Span struct {
	BeginMS float64 `json:"begin_ms"`
	MS      float64 `json:"ms"`
}

// The parts of a trace.
const (
	PartSandbox = "sandbox"
	PartCreate  = "create"
	PartStart   = "start"
	PartExec    = "exec"
)

// trace measures the stages of a part.
type trace struct {
	began time.Time

	mu     sync.Mutex
	stages []stage
}

type stage struct {
	name  string
	began time.Time
	took  time.Duration
}

func newTrace() *trace { return &trace{began: time.Now()} }

// stage begins a stage and returns what ends it.
func (t *trace) stage(name string) func() {
	began := time.Now()
	return func() {
		took := time.Since(began)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.stages = append(t.stages, stage{name, began, took})
	}
}

// log writes one line with the milliseconds of the whole and of each stage.
func (t *trace) log(ctx context.Context, log *slog.Logger, message string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var stages []slog.Attr
	for _, stage := range t.stages {
		stages = append(stages, slog.Float64(stage.name, milliseconds(stage.took)))
	}
	log.LogAttrs(ctx, slog.LevelInfo, message,
		slog.Float64("ms", milliseconds(time.Since(t.began))), slog.GroupAttrs("stage_ms", stages...))
}

// part is what has been measured, with the stages in the order in which they began.
func (t *trace) part(name string, sandboxBegan time.Time) TracePart {
	t.mu.Lock()
	defer t.mu.Unlock()
	span := func(began time.Time, took time.Duration) Span {
		return Span{BeginMS: milliseconds(began.Sub(sandboxBegan)), MS: milliseconds(took)}
	}
	part := TracePart{Name: name, Span: span(t.began, time.Since(t.began)), Stages: []TraceStage{}}
	for _, stage := range t.stages {
		part.Stages = append(part.Stages, TraceStage{stage.name, span(stage.began, stage.took)})
	}
	slices.SortStableFunc(part.Stages, func(a, b TraceStage) int { return cmp.Compare(a.BeginMS, b.BeginMS) })
	return part
}

// milliseconds rounds to a tenth: a log is for people.
func milliseconds(span time.Duration) float64 {
	return float64(span.Round(100*time.Microsecond).Microseconds()) / 1000
}

// keep writes down a part of the sandbox's start, the first of its name: a trace does not grow with the sandbox's life.
func (s *Sandbox) keep(name string, times *trace) {
	s.mu.Lock()
	known := s.kept[name]
	s.kept[name] = true
	s.mu.Unlock()
	if known {
		return
	}
	part := times.part(name, s.began)
	if err := s.dir.update(func(record *record) { record.Parts = append(slices.Clone(record.Parts), part) }); err != nil {
		s.log.Warn("a part of the trace is missing", "part", name, "error", err)
	}
}
