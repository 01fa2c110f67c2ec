package runtime

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
)

func TestDescribe(t *testing.T) {
	shim, qemu, daemon := HostProcess{Name: "shim", PID: 1}, HostProcess{Name: "qemu", PID: 2}, HostProcess{Name: "virtiofsd", PID: 3}
	first, second := HostProcess{Name: "anchor", PID: 4}, HostProcess{Name: "anchor", PID: 5}
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	exit := &ExitRecord{Code: 3, At: began, Reason: "exited"}
	specOf := func(bundle string) *specs.Spec {
		if bundle == "gone" {
			return &specs.Spec{}
		}
		return &specs.Spec{Process: &specs.Process{Args: []string{"sleep", "1"}}, Annotations: map[string]string{
			annotationPodName: "name", annotationPodNamespace: "space", annotationContainerName: bundle, annotationImageName: "image",
		}}
	}
	running := record{
		Namespace: "n", ID: "s", Bundle: "pause", Holder: shim, Machine: []HostProcess{qemu, daemon}, Size: sizeRecord{2, 384},
		Parts: []TracePart{{Name: PartSandbox}}, Began: began, Template: "t",
		Containers: map[string]containerRecord{
			"b": {Bundle: "one", Anchor: &first, State: StateRunning, Created: began},
			"a": {Bundle: "two", Anchor: &second, State: StatePaused, Created: began.Add(time.Second)},
			"c": {Bundle: "gone", Created: began.Add(time.Minute)},
		},
	}
	all := []HostProcess{shim, qemu, daemon, first, second}
	for _, test := range []struct {
		name   string
		change func(*record)
		lives  []HostProcess
		state  SandboxState
		pod    string
		states string // of the containers, the oldest first, with their pids
	}{
		{"running", nil, all, SandboxRunning, "", "b running 4, a paused 5, c  0"},
		{"pod", func(r *record) { r.Pod = &podRecord{} }, all, SandboxRunning, "space/name", "b running 4, a paused 5, c  0"},
		{"pod without a bundle", func(r *record) { r.Pod, r.Bundle = &podRecord{}, "gone" }, all, SandboxRunning, "space/name",
			"b running 4, a paused 5, c  0"},
		{"starting", func(r *record) { r.Parts, r.Machine, r.Containers = nil, nil, nil }, all, SandboxCreating, "", ""},
		{"machine ended", nil, []HostProcess{shim, daemon}, SandboxStopped, "", "b stopped 0, a stopped 0, c  0"},
		{"killed holder", nil, []HostProcess{qemu, daemon, second}, SandboxOrphaned, "", "b stopped 0, a paused 5, c  0"},
		{"exited", func(r *record) {
			r.Containers = maps.Clone(r.Containers)
			r.Containers["b"] = containerRecord{State: StateStopped, Exit: exit, Anchor: &first, Created: began}
		}, []HostProcess{shim, qemu, daemon, second}, SandboxRunning, "", "b stopped 0 exited, a paused 5, c  0"},
	} {
		r := running
		if test.change != nil {
			test.change(&r)
		}
		lives := map[HostProcess]bool{}
		for _, process := range test.lives {
			lives[process] = true
		}
		info := describe(r, "/dir", func(process HostProcess) bool { return lives[process] }, specOf)
		var states []string
		for _, container := range info.Containers {
			state := strings.TrimSpace(container.ID+" "+string(container.State)) + " "
			if container.State == "" {
				state += " "
			}
			state += string(rune('0' + container.PID))
			if container.Exit != nil {
				state += " " + container.Exit.Reason
			}
			states = append(states, state)
		}
		if got := strings.Join(states, ", "); info.State != test.state || info.Name != test.pod || got != test.states {
			t.Errorf("%s: %s %q %q", test.name, info.State, info.Name, got)
		}
	}
	want := ContainerInfo{
		ID: "b", Name: "one", State: StateRunning, PID: 4, Image: "image", Bundle: "one", Command: []string{"sleep", "1"}, Created: began,
	}
	info := describe(running, "/dir", func(HostProcess) bool { return true }, specOf)
	if !reflect.DeepEqual(info.Containers[0], want) {
		t.Errorf("got %+v", info.Containers[0])
	}
	info.Containers, info.Parts = nil, nil
	if !reflect.DeepEqual(info, SandboxInfo{
		Namespace: "n", ID: "s", State: SandboxRunning, Dir: "/dir", Bundle: "pause", Holder: shim, Machine: running.Machine, VCPUs: 2,
		MemoryMiB: 384, Began: began, Template: "t",
	}) {
		t.Errorf("got %+v", info)
	}
}

// TestSandboxes follows a sandbox and its container as somebody sees them who does not hold it.
func TestSandboxes(t *testing.T) {
	w := newTestSandbox(t)
	began := time.Now()
	look := func() SandboxInfo {
		t.Helper()
		sandboxes, err := Sandboxes(w.state)
		if err != nil || len(sandboxes) != 1 {
			t.Fatalf("got %+v, %v", sandboxes, err)
		}
		return sandboxes[0]
	}
	state := func(want State) {
		t.Helper()
		if info := look(); len(info.Containers) != 1 || info.Containers[0].State != want {
			t.Errorf("%+v, want a container that is %s", info.Containers, want)
		}
	}
	info := look()
	if info.ID != "box" || info.Namespace != "test" || info.State != SandboxRunning || info.Bundle != w.bundle || info.Began.After(began) ||
		info.Holder.PID != os.Getpid() || info.VCPUs != w.frame.vcpus || info.MemoryMiB != w.frame.memory || len(info.Containers) > 0 {
		t.Errorf("a new sandbox: %+v", info)
	}
	limit := int64(w.frame.memory) * mebibyte
	w.bundle = writeBundle(t, func(spec *specs.Spec) {
		spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	})
	container := w.create(t, IO{})
	state(StateCreated)
	if info := look(); info.MemoryMiB <= w.frame.memory || info.Containers[0].PID != container.Init().PID() {
		t.Errorf("with a container: %+v", info)
	}
	for _, step := range []struct {
		do   func() error
		want State
	}{
		{func() error { return container.Init().Start(t.Context()) }, StateRunning},
		{func() error { return container.Pause(t.Context()) }, StatePaused},
		{func() error { return container.Resume(t.Context()) }, StateRunning},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		state(step.want)
	}
	w.events.Exit(protocol.Exit{RequestID: container.init.request, Code: 7, Reason: "exited"})
	waitExit(t, container.Init())
	state(StateStopped)
	if exit := look().Containers[0].Exit; exit == nil || exit.Code != 7 || exit.Reason != "exited" || exit.At.Before(began) {
		t.Errorf("its end: %+v", exit)
	}
	if _, err := container.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if info := look(); len(info.Containers) > 0 || info.MemoryMiB != w.frame.memory {
		t.Errorf("after the container: %+v", info)
	}
	if err := w.dir.update(func(record *record) { record.Holder.StartTime++ }); err != nil { // somebody else now
		t.Fatal(err)
	}
	if info := look(); info.State != SandboxOrphaned {
		t.Errorf("without its holder: %+v", info)
	}
	if err := w.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if sandboxes, err := Sandboxes(w.state); len(sandboxes) > 0 || err != nil {
		t.Errorf("after its end: %+v, %v", sandboxes, err)
	}
}

// TestSandboxesOdd has state directories that are not as they should be.
func TestSandboxesOdd(t *testing.T) {
	dir := t.TempDir()
	if sandboxes, err := Sandboxes(filepath.Join(dir, "none")); err != nil || len(sandboxes) > 0 {
		t.Errorf("no directory: %v, %v", sandboxes, err)
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
	sandboxes, err := Sandboxes(dir)
	if len(sandboxes) != 2 || sandboxes[0].ID != "early" || sandboxes[1].ID != "late" {
		t.Errorf("got %+v", sandboxes)
	}
	if err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("the broken one: %v", err)
	}
	if found, err := FindSandbox(dir, "", "early"); err != nil || found.ID != "early" {
		t.Errorf("beside a broken one: %+v, %v", found, err)
	}
	if _, err := FindSandbox(dir, "", "other"); err == nil || !strings.Contains(err.Error(), "broken") || !strings.Contains(err.Error(), dir) {
		t.Errorf("one that may be the broken one: %v", err)
	}
}
