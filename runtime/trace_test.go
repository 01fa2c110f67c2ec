package runtime

import (
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
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

// TestTrace follows a sandbox up to its first exec. Further execs are in no trace.
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
	want := []string{"sandbox: agent cgroup clock handshake state turn"}
	if got := parts(); !slices.Equal(got, want) {
		t.Errorf("a sandbox: %q", got)
	}
	container := w.create(t, IO{})
	if want = append(want, "create: anchor prepare rootfs share size"); !slices.Equal(parts(), want) {
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

// TestTraceOfEnd finds the whole life of a sandbox in the log, from before it was made.
func TestTraceOfEnd(t *testing.T) {
	w := newWorld(t)
	var log strings.Builder
	options := w.options(t)
	options.Logger = slog.New(slog.NewTextHandler(&log, nil))
	began := time.Now().Add(-time.Second)
	options.Before = []Stage{{"exec", began, began.Add(time.Second / 2)}, {"call", began.Add(time.Second / 4 * 3), time.Now()}}
	sandbox, err := newSandbox(t.Context(), options, w.platform)
	if err != nil {
		t.Fatal(err)
	}
	w.Sandbox = sandbox
	output := newBuffer()
	container := w.run(t, IO{Stdout: output})
	say(t, w.fakeGuest.stream(t, container.init.streams.stdout.token), "x")
	w.events.StreamEnd(protocol.StreamEnd{RequestID: container.init.request, Stream: "stdout", Bytes: 1})
	w.exit(container.init, 0)
	waitExit(t, container.init)
	if _, err := container.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := sandbox.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	traces, err := LoggedTraces(strings.NewReader(log.String()))
	if err != nil || len(traces) != 1 || traces[0].ID != "box" || !traces[0].Began.Equal(began) {
		t.Fatalf("got %+v, %v", traces, err)
	}
	var parts []string
	for _, part := range traces[0].Parts {
		parts = append(parts, part.Name)
	}
	if got := strings.Join(parts, " "); got != "shim sandbox create start output exit delete stop" {
		t.Errorf("parts %s", got)
	}
	if shim := traces[0].Parts[0]; shape(shim) != "shim: call exec" || shim.BeginMS != 0 || shim.MS < 1000 || shim.Other() < 250 {
		t.Errorf("before the sandbox: %+v", shim)
	}
}

func TestTraceGaps(t *testing.T) {
	spans := func(numbers ...float64) (spans []Span) {
		for i := 0; i < len(numbers); i += 2 {
			spans = append(spans, Span{numbers[i], numbers[i+1]})
		}
		return spans
	}
	for name, test := range map[string]struct {
		whole Span
		spans []Span
		want  []Span
	}{
		"nothing in it":     {Span{2, 8}, nil, spans(2, 8)},
		"all of it":         {Span{2, 8}, spans(2, 8), nil},
		"more than it":      {Span{2, 8}, spans(0, 20), nil},
		"around":            {Span{2, 8}, spans(4, 2), spans(2, 2, 6, 4)},
		"one in another":    {Span{0, 10}, spans(1, 8, 2, 1), spans(0, 1, 9, 1)},
		"unordered":         {Span{0, 10}, spans(6, 4, 0, 4), spans(4, 2)},
		"before and behind": {Span{4, 2}, spans(0, 5, 8, 2), spans(5, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := gaps(test.whole, test.spans); !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
	part := TracePart{Span: Span{10, 10}, Stages: []TraceStage{{"a", Span{11, 4}}, {"b", Span{14, 4}}}}
	trace := Trace{Parts: []TracePart{part, {Span: Span{25, 5}}}}
	if other := part.Other(); other != 3 {
		t.Errorf("%v is other", other)
	}
	if other := trace.Parts[1].Other(); other != 0 {
		t.Errorf("%v of a part without stages is other", other)
	}
	if got := trace.Elsewhere(); !slices.Equal(got, spans(0, 10, 20, 5)) {
		t.Errorf("elsewhere: %v", got)
	}
}

func TestLoggedTraces(t *testing.T) {
	first := Trace{Namespace: "n", ID: `a "quoted" one`, Began: time.Unix(1e9, 0).UTC(), Parts: []TracePart{{Name: PartStop}}}
	second := Trace{Namespace: "n", ID: "b", Began: time.Unix(2e9, 0).UTC()}
	var log strings.Builder
	log.WriteString("something else\nmsg=\"sandbox stopped\" sandbox=old\n")
	for _, trace := range []Trace{first, second} {
		logTrace(slog.New(slog.NewTextHandler(&log, nil)).With("sandbox", trace.ID), trace)
	}
	cut := log.String()[:log.Len()-2] // of the last line the end is missing
	for _, test := range []struct {
		log  string
		want []Trace
	}{
		{"", []Trace{}},
		{cut, []Trace{first}},
		{cut + "\n" + log.String(), []Trace{first, first, second}},
	} {
		if got, err := LoggedTraces(strings.NewReader(test.log)); err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("got %+v, %v of %s", got, err, test.log)
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
