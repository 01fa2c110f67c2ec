package runtime

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
)

const testGiB = 1 << 30

// limited makes a bundle whose container asks for that much.
func limited(t *testing.T, cpus, memory int64) string {
	t.Helper()
	return writeBundle(t, func(spec *specs.Spec) {
		spec.Linux.Resources = &specs.LinuxResources{
			CPU:    &specs.LinuxCPU{Quota: ptr(cpus * 100000), Period: ptr[uint64](100000)},
			Memory: &specs.LinuxMemory{Limit: &memory},
		}
	})
}

func (w *world) wantSize(t *testing.T, when string, plugs []protocol.Plug, added ...int) {
	t.Helper()
	if got := got[protocol.Plug](w.fakeGuest); !slices.Equal(got, plugs) {
		t.Errorf("%s: the guest was told %v, want %v", when, got, plugs)
	}
	if !slices.Equal(w.fakeMachine.added, added) {
		t.Errorf("%s: the machine's added memory was %v, want %v", when, w.fakeMachine.added, added)
	}
}

// TestMachineFollowsContainers adds and removes containers with limits.
func TestMachineFollowsContainers(t *testing.T) {
	w := newTestSandbox(t)
	w.frame = frame{vcpus: 2, memory: 256, maxVCPUs: 4, maxMemory: 8192, shared: 256}
	first := w.create(t, IO{})
	w.wantSize(t, "with one without limits", nil)

	second, err := w.CreateContainer(t.Context(), ContainerOptions{ID: "c2", Bundle: limited(t, 3, testGiB)})
	if err != nil {
		t.Fatal(err)
	}
	plugs := []protocol.Plug{{Device: protocol.PlugMemory, Amount: 1152 << 20}, {Device: protocol.PlugProcessors, Amount: 3}}
	w.wantSize(t, "with a second one", plugs, 1152)

	if err := second.Update(t.Context(), &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](2 * testGiB)}}); err != nil {
		t.Fatal(err)
	}
	plugs = append(plugs, protocol.Plug{Device: protocol.PlugMemory, Amount: 2176 << 20})
	w.wantSize(t, "with a larger limit", plugs, 1152, 2176)
	if err := second.Update(t.Context(), &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](testGiB)}}); err != nil {
		t.Fatal(err)
	}
	w.wantSize(t, "with a smaller limit", plugs, 1152, 2176, 1152)

	if _, err := second.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wantSize(t, "without the second one", plugs, 1152, 2176, 1152, 0)
	if _, err := first.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestMachineDoesNotGrow has host or guest fail: the container is not made, and the machine is as before.
func TestMachineDoesNotGrow(t *testing.T) {
	for name, test := range map[string]struct {
		refuse error // of the machine
		answer error // of the guest
		added  []int
	}{
		"host":  {refuse: errdefs.ErrResourceExhausted},
		"guest": {answer: errdefs.ErrFailedPrecondition, added: []int{1152, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestSandbox(t)
			w.frame = frame{vcpus: 2, memory: 256, maxVCPUs: 4, maxMemory: 8192, shared: 256}
			w.fakeMachine.refuse = test.refuse
			w.fakeGuest.answer = func(_ context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
				if _, ok := message.(protocol.Plug); ok {
					return nil, test.answer
				}
				return nil, nil
			}
			w.create(t, IO{})
			_, err := w.CreateContainer(t.Context(), ContainerOptions{ID: "c2", Bundle: limited(t, 1, testGiB)})
			if want := cmp.Or(test.refuse, test.answer); !errors.Is(err, want) {
				t.Errorf("got %v", err)
			}
			if !slices.Equal(w.fakeMachine.added, test.added) || len(w.demands) != 1 {
				t.Errorf("added memory %v, %d demands", w.fakeMachine.added, len(w.demands))
			}
			if _, err := w.Container("c2"); !errdefs.IsNotFound(err) {
				t.Errorf("the container: %v", err)
			}
		})
	}
}

// TestUpdate changes limits in each state of a container.
func TestUpdate(t *testing.T) {
	w := newTestSandbox(t)
	c := w.create(t, IO{})
	pids := func(limit int64) *specs.LinuxResources {
		return &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
	}
	if err := c.Update(t.Context(), pids(5)); err != nil {
		t.Fatal(err)
	}
	if *c.plan.Spec.Linux.Resources.Pids.Limit != 5 || len(got[protocol.Update](w.fakeGuest)) != 0 {
		t.Errorf("before the start: %+v", c.plan.Spec.Linux.Resources)
	}
	if err := c.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(context.Context) error{nil, c.Pause} {
		if change != nil {
			if err := change(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Update(t.Context(), &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr[uint64](100)}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, message := range got[protocol.Update](w.fakeGuest) {
		if string(message.Resources) != `{"cpu":{"shares":100},"pids":{"limit":5}}` || message.ContainerID != "c1" {
			t.Errorf("the guest was told %s: %s", message.ContainerID, message.Resources)
		}
	}

	before := c.resources
	w.fakeGuest.answer = func(context.Context, protocol.HostMessage) (protocol.GuestMessage, error) {
		return nil, errdefs.ErrInternal
	}
	for name, test := range map[string]struct {
		update *specs.LinuxResources
		is     func(error) bool
	}{
		"nonsense":          {pids(-2), errdefs.IsInvalidArgument},
		"unsupported":       {&specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr[uint32](1)}}, errdefs.IsNotImplemented},
		"the guest refuses": {pids(9), errdefs.IsInternal},
	} {
		if err := c.Update(t.Context(), test.update); !test.is(err) || c.resources != before {
			t.Errorf("%s: %v, %+v", name, err, c.resources)
		}
	}
	w.fakeGuest.answer = nil
	w.exit(c.Init(), 0)
	waitExit(t, c.Init())
	if err := c.Update(t.Context(), pids(7)); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("after its end: %v", err)
	}
}
