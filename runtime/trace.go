package runtime

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Trace is where the time of a sandbox's start and of its end went. It is kept in the state directory, and logged as JSON when the sandbox
// has been stopped.
type Trace struct {
	Namespace string      `json:"namespace"`
	ID        string      `json:"id"`
	Began     time.Time   `json:"began"`
	Template  string      `json:"template,omitempty"` // that the sandbox is a clone of; empty: it has booted
	Parts     []TracePart `json:"parts"`              // in the order in which they began, the first of each name
}

// TracePart is what was done for one call, or until one event.
type TracePart struct {
	Name string `json:"name"` // PartShim to PartStop
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

// end is when it was over: milliseconds from the beginning of the sandbox.
func (s Span) end() float64 { return s.BeginMS + s.MS }

// Other is how many milliseconds of a part belong to none of its stages. What has no stages is one itself.
func (p TracePart) Other() float64 {
	if len(p.Stages) == 0 {
		return 0
	}
	var stages []Span
	for _, stage := range p.Stages {
		stages = append(stages, stage.Span)
	}
	other := 0.0
	for _, gap := range gaps(p.Span, stages) {
		other += gap.MS
	}
	return other
}

// Elsewhere are the times within a trace that belong to none of its parts: containerd and its client have them, and the container's
// processes.
func (t Trace) Elsewhere() []Span {
	var parts []Span
	end := 0.0
	for _, part := range t.Parts {
		parts = append(parts, part.Span)
		end = max(end, part.end())
	}
	return gaps(Span{MS: end}, parts)
}

// gaps are what spans leave of a whole, in order. Spans may overlap.
func gaps(whole Span, spans []Span) []Span {
	var left []Span
	at := whole.BeginMS
	for _, span := range slices.SortedFunc(slices.Values(spans), func(a, b Span) int { return cmp.Compare(a.BeginMS, b.BeginMS) }) {
		if begin := min(span.BeginMS, whole.end()); begin > at {
			left = append(left, Span{BeginMS: at, MS: begin - at})
		}
		at = max(at, span.end())
	}
	if at < whole.end() {
		left = append(left, Span{BeginMS: at, MS: whole.end() - at})
	}
	return left
}

// The parts of a trace. The processes are the first of the sandbox's first container, and the first exec.
const (
	PartShim    = "shim"    // from the start of containerd's call of the shim's program to NewSandbox
	PartSandbox = "sandbox" // NewSandbox
	PartCreate  = "create"  // CreateContainer
	PartStart   = "start"   // Start of the process
	PartOutput  = "output"  // from the call of Start until the first byte of output has been passed on; none without output
	PartExec    = "exec"    // Start of an exec
	PartExit    = "exit"    // from the agent's word of the process's end until who waits for it is told
	PartDelete  = "delete"  // Delete of the container
	PartStop    = "stop"    // Stop of the sandbox
)

// Stages of PartSandbox from which it can be told how soon a machine was there.
const (
	StageQEMU      = "qemu"      // QEMU is started, and takes a template's state
	StageWake      = "wake"      // until a clone's agent says hello
	StageAgent     = "agent"     // until the agent of a machine that boots does
	StageHandshake = "handshake" // until the session with it is ready
)

// Stage is a step of a part of a trace while it is being measured.
type Stage struct {
	Name  string    `json:"name"`
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
}

// trace measures the stages of a part.
type trace struct {
	began time.Time
	ended time.Time // zero: it goes on

	mu     sync.Mutex
	stages []Stage
}

func newTrace() *trace { return &trace{began: time.Now()} }

// stage begins a stage and returns what ends it.
func (t *trace) stage(name string) func() {
	began := time.Now()
	return func() {
		ended := time.Now()
		t.mu.Lock()
		defer t.mu.Unlock()
		t.stages = append(t.stages, Stage{name, began, ended})
	}
}

// greeting adds the stages of a wait for the guest's session, which has just become ready: name, until its agent said hello, and the
// handshake after it.
func (t *trace) greeting(name string, began, greeted time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if greeted.Before(began) {
		greeted = began
	}
	t.stages = append(t.stages, Stage{name, began, greeted}, Stage{StageHandshake, greeted, time.Now()})
}

// log writes one line with the milliseconds of the whole and of each stage.
func (t *trace) log(ctx context.Context, log *slog.Logger, message string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var stages []slog.Attr
	for _, stage := range t.stages {
		stages = append(stages, slog.Float64(stage.Name, milliseconds(stage.Ended.Sub(stage.Began))))
	}
	log.LogAttrs(ctx, slog.LevelInfo, message,
		slog.Float64("ms", milliseconds(time.Since(t.began))), slog.GroupAttrs("stage_ms", stages...))
}

// part is what has been measured until now, with the stages in the order in which they began.
func (t *trace) part(name string, sandboxBegan time.Time) TracePart {
	t.mu.Lock()
	defer t.mu.Unlock()
	span := func(began, ended time.Time) Span {
		return Span{BeginMS: milliseconds(began.Sub(sandboxBegan)), MS: milliseconds(ended.Sub(began))}
	}
	ended := t.ended
	if ended.IsZero() {
		ended = time.Now()
	}
	part := TracePart{Name: name, Span: span(t.began, ended), Stages: []TraceStage{}}
	for _, stage := range t.stages {
		part.Stages = append(part.Stages, TraceStage{stage.Name, span(stage.Began, stage.Ended)})
	}
	slices.SortStableFunc(part.Stages, func(a, b TraceStage) int { return cmp.Compare(a.BeginMS, b.BeginMS) })
	return part
}

// milliseconds rounds to a tenth: a log is for people.
func milliseconds(span time.Duration) float64 {
	return float64(span.Round(100*time.Microsecond).Microseconds()) / 1000
}

// keep adds a part, which ends now, to the sandbox's trace and writes that down, unless there is one of its name: a trace does not grow
// with the sandbox's life.
func (s *Sandbox) keep(name string, times *trace) {
	if s.addPart(name, times) {
		s.note(func(*record) {})
	}
}

// addPart is keep, but leaves it to a note that follows to write the part down. It tells whether it was added.
func (s *Sandbox) addPart(name string, times *trace) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.parts, func(part TracePart) bool { return part.Name == name }) {
		return false
	}
	s.parts = append(slices.Clone(s.parts), times.part(name, s.began)) // others may be reading the old ones
	slices.SortStableFunc(s.parts, func(a, b TracePart) int { return cmp.Compare(a.BeginMS, b.BeginMS) })
	return true
}

// trace is what has been measured until now.
func (s *Sandbox) trace() Trace {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Trace{s.namespace, s.id, s.began, s.template, s.parts}
}
