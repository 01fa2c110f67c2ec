package runtime

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/config"
)

func TestSandbox(t *testing.T) {
	w := newTestSandbox(t)
	state, err := os.Readlink(filepath.Join(w.bundle, stateLink))
	if err != nil || state != StatePath(w.state, "test", "box") {
		t.Errorf("the bundle's link: %s, %v", state, err)
	}
	if _, err := newSandbox(t.Context(), w.options(t), w.platform); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second sandbox of the name: %v", err)
	}
	container := w.create(t, IO{})
	if found, err := w.Container("c1"); err != nil || found != container {
		t.Errorf("got %v, %v", found, err)
	}
	if _, err := w.CreateContainer(t.Context(), ContainerOptions{ID: "c1", Bundle: w.bundle}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second container of the name: %v", err)
	}
	for range 2 { // with a container in it, and again
		if err := w.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.CreateContainer(t.Context(), ContainerOptions{ID: "c2", Bundle: w.bundle}); !errdefs.IsUnavailable(err) {
		t.Errorf("a container of a stopped sandbox: %v", err)
	}
	if status := waitExit(t, container.Init()); status.Reason != "vm lost" {
		t.Errorf("exit: %+v", status)
	}
}

func TestSandboxFails(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*world, *SandboxOptions)
		kind   func(error) bool
		want   []string
	}{
		{"no bundle", func(w *world, o *SandboxOptions) { o.Bundle = w.state }, errdefs.IsInvalidArgument, []string{"config.json"}},
		{"annotation", func(w *world, o *SandboxOptions) {
			o.Bundle = writeBundle(t, func(spec *specs.Spec) {
				spec.Annotations = map[string]string{config.AnnotationMemory: "16"}
			})
		}, errdefs.IsInvalidArgument, []string{"io.limpet.memory", "at least 96"}},
		{"no machine", func(w *world, o *SandboxOptions) {
			w.fakeMachine = nil
		}, errdefs.IsNotFound, []string{"kernel"}},
		{"silent agent", func(w *world, o *SandboxOptions) {
			w.fakeGuest.ready = make(chan struct{})
			w.fakeMachine.console = "booting\n\x1b[31mpanic: no init\r\n"
			o.Config.Timeouts.Boot = config.Duration(time.Millisecond)
		}, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) },
			[]string{"1ms", "timeouts.boot", "\tbooting", "\t?[31mpanic: no init"}},
		{"silent agent under KVM", func(w *world, o *SandboxOptions) {
			w.fakeGuest.ready = make(chan struct{})
			w.fakeMachine.accelerator = hypervisor.AcceleratorKVM
			o.Config.Timeouts.Boot = config.Duration(time.Millisecond)
		}, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }, []string{"1ms", "accelerator kvm", `"tcg"`}},
		{"machine ends", func(w *world, o *SandboxOptions) {
			w.fakeGuest.ready = make(chan struct{})
			w.fakeMachine.end(errors.New("signal: killed"))
		}, errdefs.IsUnavailable, []string{"VM has ended", "signal: killed"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			options := w.options(t)
			test.change(w, &options)
			platform := w.platform
			if w.fakeMachine == nil {
				platform = func(context.Context, machinePlan, *undo) (started, error) {
					return started{}, errors.Join(errors.New("guest kernel missing"), errdefs.ErrNotFound)
				}
			}
			_, err := newSandbox(t.Context(), options, platform)
			if err == nil || !test.kind(err) {
				t.Fatalf("got %v", err)
			}
			for _, want := range append(test.want, "sandbox box") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

// TestStateWithoutSpace puts the state directory on a file system that is full.
func TestStateWithoutSpace(t *testing.T) {
	w := newWorld(t)
	if err := unix.Mount("tmpfs", w.state, "tmpfs", 0, "size=4k,nr_inodes=8"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		nothingBut(t, w.state, "filler")
		if err := unix.Unmount(w.state, 0); err != nil {
			t.Error(err)
		}
	}()
	if err := os.WriteFile(filepath.Join(w.state, "filler"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := newSandbox(t.Context(), w.options(t), w.platform)
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "state_dir") {
		t.Errorf("got %v", err)
	}
}

// nothingBut checks that a directory has one entry.
func nothingBut(t *testing.T, dir, name string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != name {
		t.Errorf("left in %s: %v, %v", dir, left, err)
	}
}

// TestStopRetried has a step of Stop fail once.
func TestStopRetried(t *testing.T) {
	w := newWorld(t)
	sandbox, err := newSandbox(t.Context(), w.options(t), w.platform)
	if err != nil {
		t.Fatal(err)
	}
	broken := true
	sandbox.undo.push("do something", func(context.Context) error {
		if broken {
			return errors.New("busy")
		}
		return nil
	})
	if err := sandbox.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot do something: busy") {
		t.Errorf("got %v", err)
	}
	broken = false
	if err := sandbox.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestStopOfHungGuest has an agent that does not answer: the machine and what is on the host go in the time there is.
func TestStopOfHungGuest(t *testing.T) {
	w := newTestSandbox(t)
	container := w.run(t, IO{})
	w.fakeGuest.answer = func(ctx context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
		if _, ok := message.(protocol.Stop); ok {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	if err := w.Stop(ctx); err != nil {
		t.Error(err)
	}
	if asked := got[protocol.Stop](w.fakeGuest); len(asked) != 1 || asked[0].TimeoutMS == 0 || asked[0].TimeoutMS > 1000 {
		t.Errorf("the agent was asked %+v", asked)
	}
	if status := waitExit(t, container.Init()); status.Reason != "vm lost" {
		t.Errorf("exit: %+v", status)
	}
}
