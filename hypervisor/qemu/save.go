package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/hypervisor"
)

// A saved machine is a directory of three files. The description is written last: without it there is no saved machine.
const (
	memoryFile      = "memory"       // the guest's memory, sparse
	stateFile       = "state"        // QEMU's migration stream of everything else
	descriptionFile = "machine.json" // description
)

// description is what has to be equal for a state to fit a machine.
type description struct {
	Kernel       string                 `json:"kernel"`
	Initrd       string                 `json:"initrd"`
	Cmdline      []string               `json:"cmdline"`
	VCPUs        int                    `json:"vcpus"`
	MemoryMiB    int                    `json:"memory_mib"`
	MaxVCPUs     int                    `json:"max_vcpus"`
	MaxMemoryMiB int                    `json:"max_memory_mib"`
	Ports        int                    `json:"ports"`
	Accelerator  hypervisor.Accelerator `json:"accelerator"`
}

func (p *plan) describe() description {
	c := p.config
	return description{c.Kernel, c.Initrd, c.Cmdline, c.VCPUs, c.MemoryMiB, c.MaxVCPUs, c.MaxMemoryMiB, portCount(c), p.accelerator}
}

// Save implements hypervisor.Machine.
func (m *machine) Save(ctx context.Context, dir string) error {
	end, err := m.begin(ctx, "save", paused)
	if err != nil {
		return err
	}
	defer end()
	if err := m.save(ctx, dir); err != nil {
		return fmt.Errorf("save machine %s in %s: %w", m.plan.config.Name, dir, err)
	}
	return nil
}

func (m *machine) save(ctx context.Context, dir string) error {
	if devices := m.devices(); len(devices) > 0 {
		return fmt.Errorf("it has %d devices of its own: unplug them: %w", len(devices), errdefs.ErrFailedPrecondition)
	}
	if err := os.Remove(filepath.Join(dir, descriptionFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err := create(filepath.Join(dir, stateFile), func(file *os.File) error {
		return m.migrate(ctx, "migrate", file)
	})
	if err != nil {
		return err
	}
	err = create(filepath.Join(dir, memoryFile), func(file *os.File) error { return copySparse(file, m.memory) })
	if err != nil {
		return err
	}
	text, err := json.Marshal(m.plan.describe())
	if err != nil {
		return err
	}
	return create(filepath.Join(dir, descriptionFile), func(file *os.File) error {
		_, err := file.Write(text)
		return err
	})
}

// create makes a file that only we may read: it may hold a guest's secrets.
func create(path string, fill func(*os.File) error) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(fill(file), file.Close())
}

// migrate has QEMU write its state to the file ("migrate") or take it from there ("migrate-incoming"). Shared memory is left out
// of the state: the file of memory is handed on instead.
func (m *machine) migrate(ctx context.Context, command string, state *os.File) error {
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	capabilities := map[string][]capability{"capabilities": {{"x-ignore-shared", true}, {"events", true}}}
	if err := m.monitor.execute(ctx, "migrate-set-capabilities", capabilities); err != nil {
		return err
	}
	if err := m.monitor.passFile(ctx, "state", state); err != nil {
		return err
	}
	over := m.monitor.expect(func(e event) bool {
		return e.Name == "MIGRATION" && (e.Status == "completed" || e.Status == "failed")
	})
	defer over.forget()
	if err := m.monitor.execute(ctx, command, map[string]any{"uri": "fd:state"}); err != nil {
		return err
	}
	event, err := over.wait(ctx)
	if err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	if event.Status != "completed" {
		return fmt.Errorf("QMP %s: QEMU reports that it failed", command)
	}
	return nil
}

// load puts a saved state into a machine that was started for it.
func (m *machine) load(ctx context.Context, state *os.File) error {
	end, err := m.begin(ctx, "restore", paused)
	if err != nil {
		return err
	}
	defer end()
	return m.migrate(ctx, "migrate-incoming", state)
}

// saved is a saved machine, opened.
type saved struct{ state, memory *os.File }

// openSaved opens what Save wrote, if it fits the plan. The caller closes it.
func openSaved(dir string, p *plan) (*saved, error) {
	text, err := os.ReadFile(filepath.Join(dir, descriptionFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no saved machine there: save one first: %w", errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	var have description
	if err := json.Unmarshal(text, &have); err != nil {
		return nil, fmt.Errorf("%s: %w: save the machine again", descriptionFile, err)
	}
	if want := p.describe(); !reflect.DeepEqual(have, want) {
		return nil, fmt.Errorf("the saved machine is another (%+v, not %+v): save one like this: %w", have, want, errdefs.ErrFailedPrecondition)
	}
	state, err := os.Open(filepath.Join(dir, stateFile))
	if err != nil {
		return nil, err
	}
	memory, err := os.Open(filepath.Join(dir, memoryFile))
	if err != nil {
		return nil, errors.Join(err, state.Close())
	}
	return &saved{state: state, memory: memory}, nil
}

// close can only fail on files that were written.
func (s *saved) close() {
	_ = s.state.Close()
	_ = s.memory.Close()
}

// copyMemory makes a machine's memory with the saved contents.
func (s *saved) copyMemory() (*os.File, error) {
	memory, err := newMemory(0)
	if err != nil {
		return nil, err
	}
	if err := copySparse(memory, s.memory); err != nil {
		return nil, errors.Join(fmt.Errorf("copy the saved memory: %w", err), memory.Close())
	}
	return memory, nil
}
