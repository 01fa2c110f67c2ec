package runtime

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/runtime/config"
)

const testTemplate = "a template"

// newTestSpare makes a spare with fakes below it. A host without the guest's tools has no rehearsal.
func (w *world) newSpare(t *testing.T) *Spare {
	t.Helper()
	options := w.options(t)
	options.Config.Tools = filepath.Join(w.bundle, "none")
	platform := func(ctx context.Context, plan machinePlan, undo *undo) (started, error) {
		started, err := w.platform(ctx, plan, undo)
		started.template = testTemplate
		return started, err
	}
	template := func(machinePlan) (string, error) { return testTemplate, nil }
	spare, err := newSpare(t.Context(), SpareOptions{Config: options.Config, Logger: options.Logger}, platform, template)
	if err != nil {
		t.Fatal(err)
	}
	return spare
}

// takeSpare makes a sandbox that is given a spare.
func (w *world) takeSpare(t *testing.T, spare *Spare, change func(*SandboxOptions)) (*Sandbox, error) {
	t.Helper()
	options := w.options(t)
	options.Config.Tools = spare.config.Tools
	options.Spare = spare
	if change != nil {
		change(&options)
	}
	return newSandbox(t.Context(), options, w.platform)
}

func TestSpareBecomesSandbox(t *testing.T) {
	w := newWorld(t)
	spare := w.newSpare(t)
	waiting := spare.sandbox.dir.path
	if list, err := Sandboxes(w.state); err != nil || len(list) > 0 {
		t.Errorf("a spare is listed: %+v, %v", list, err)
	}
	sandbox, err := w.takeSpare(t, spare, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Sandbox, w.fakeMachine.share = sandbox, sandbox.dir.share()
	if sandbox != spare.sandbox {
		t.Error("the sandbox has another machine")
	}
	if len(got[protocol.SetClock](w.fakeGuest)) != 1 {
		t.Error("the guest was not told the time")
	}
	if _, err := os.Stat(waiting); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the spare's directory: %v", err)
	}
	want := StatePath(w.state, "test", "box")
	if link, err := os.Readlink(filepath.Join(w.bundle, stateLink)); err != nil || link != want || sandbox.dir.path != want {
		t.Errorf("linked to %s, %v; in %s; want %s", link, err, sandbox.dir.path, want)
	}
	list, err := Sandboxes(w.state)
	if err != nil || len(list) != 1 || list[0].ID != "box" || list[0].Namespace != "test" || list[0].State != SandboxRunning {
		t.Errorf("listed: %+v, %v", list, err)
	}
	container := w.run(t, IO{})
	w.exit(container.Init(), 7)
	if exit := waitExit(t, container.Init()); exit.Code != 7 {
		t.Errorf("exit %+v", exit)
	}
	if err := sandbox.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := spare.Stop(t.Context()); err == nil {
		t.Error("a spare that a sandbox had was stopped")
	}
}

// TestSpareThatDoesNotFit starts another machine, and the spare's goes.
func TestSpareThatDoesNotFit(t *testing.T) {
	for name, test := range map[string]struct {
		before func(*world, *Spare)
		change func(*SandboxOptions)
	}{
		"another configuration": {change: func(options *SandboxOptions) { options.Config.VM.VCPUs = 3 }},
		"another template": {before: func(_ *world, spare *Spare) {
			spare.template = func(machinePlan) (string, error) { return "another", nil }
		}},
		"its machine has ended": {before: func(w *world, spare *Spare) {
			w.fakeMachine.end(errors.New("a bug"))
			<-spare.Lost()
		}},
		"its guest does not answer": {before: func(w *world, _ *Spare) {
			w.fakeGuest.answer = func(context.Context, protocol.HostMessage) (protocol.GuestMessage, error) {
				return nil, errors.New("a bug")
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			spare := w.newSpare(t)
			lost := w.fakeMachine.ended
			if test.before != nil {
				test.before(w, spare)
			}
			fresh := &world{fakeGuest: newFakeGuest(), fakeMachine: newFakeMachine(), state: w.state, bundle: w.bundle}
			sandbox, err := fresh.takeSpare(t, spare, test.change)
			if err != nil {
				t.Fatal(err)
			}
			wait(t, lost, "the spare's machine does not end")
			wait(t, spare.over, "the spare is not undone")
			if sandbox == spare.sandbox {
				t.Error("the sandbox has the spare's machine")
			}
			if err := sandbox.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSpareIsStopped stops one that nobody took.
func TestSpareIsStopped(t *testing.T) {
	w := newWorld(t)
	spare := w.newSpare(t)
	if err := spare.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait(t, w.fakeMachine.ended, "its machine does not end")
}

func TestMisfit(t *testing.T) {
	for want, change := range map[string]func(*config.Config){
		"": func(c *config.Config) {
			c.Network.Bridge, c.Storage.MiB, c.Egress.Hosts = "other", 64, []string{"example.org"}
		},
		"state_dir":  func(c *config.Config) { c.StateDir = "/other" },
		"kernel":     func(c *config.Config) { c.Kernel = "/other" },
		"image":      func(c *config.Config) { c.Image = "/other" },
		"tools":      func(c *config.Config) { c.Tools = "/other" },
		"hypervisor": func(c *config.Config) { c.Hypervisor.Accelerator = "kvm" },
		"vsock":      func(c *config.Config) { c.Vsock.Backend = "kernel" },
		"virtiofs":   func(c *config.Config) { c.Virtiofs.Daemon = "/other" },
		"vm":         func(c *config.Config) { c.VM.MemoryMiB++ },
		"template":   func(c *config.Config) { c.Template.Enabled = false },
		"egress":     func(c *config.Config) { c.Egress.Restrict = true },
		"guest_data": func(c *config.Config) { c.GuestData["resolv.conf"] = "" },
	} {
		wanted := config.Default()
		change(&wanted)
		if got := misfit(config.Default(), wanted); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestRealSpare has a sandbox take a machine that waits.
func TestRealSpare(t *testing.T) {
	build := os.Getenv("LIMPET_BUILD")
	if build == "" {
		t.Skip("LIMPET_BUILD does not name a directory with a guest kernel and image")
	}
	w := newWorld(t)
	options := w.options(t)
	configureBuild(t, &options.Config, build)
	spare, err := NewSpare(t.Context(), SpareOptions{Config: options.Config, Logger: options.Logger})
	if err != nil {
		t.Fatal(err)
	}
	options.Spare = spare
	if w.Sandbox, err = NewSandbox(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	if w.Sandbox != spare.sandbox {
		t.Error("the sandbox has another machine")
	}
	output := newBuffer()
	container, err := w.CreateContainer(t.Context(), ContainerOptions{
		ID: "c1", Bundle: busyboxBundle(t, "sh", "-c", "uname"), IO: IO{Stdout: output},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := container.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exit := waitExit(t, container.Init()); exit.Code != 0 {
		t.Errorf("exit %+v", exit)
	}
	if _, err := container.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if output.String() != "Linux\n" {
		t.Errorf("output %q", output)
	}
	for _, part := range w.trace().Parts {
		t.Logf("%+v", part)
	}
	processes := w.machine.Processes()
	if err := w.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	allEnded(t, processes)
}
