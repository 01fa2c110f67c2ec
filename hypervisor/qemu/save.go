package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/hypervisor"
)

// A saved machine is a directory of three files. The description is written last: without it there is no saved machine.
const (
	memoryFile      = "memory"       // the guest's memory, sparse
	stateFile       = "state"        // QEMU's migration stream of everything else
	descriptionFile = "machine.json" // description
)

// description is what has to be equal for a saved machine to be restored: what it is made of, and its files.
type description struct {
	Ingredients []hypervisor.Ingredient `json:"ingredients"`
	Memory      fileMark                `json:"memory"`
	State       fileMark                `json:"state"`
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
	var d description
	var err error
	if d.Ingredients, err = m.plan.ingredients(); err != nil {
		return err
	}
	d.State, err = create(filepath.Join(dir, stateFile), func(file *os.File) error { return m.migrate(ctx, "migrate", file) })
	if err != nil {
		return err
	}
	d.Memory, err = create(filepath.Join(dir, memoryFile), func(file *os.File) error { return copyNonzero(file, m.memory) })
	if err != nil {
		return err
	}
	return d.write(dir)
}

// write makes a saved machine complete.
func (d description) write(dir string) error {
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	_, err = create(filepath.Join(dir, descriptionFile), func(file *os.File) error {
		_, err := file.Write(text)
		return err
	})
	return err
}

// create makes a file that only we may read: it may hold a guest's secrets.
func create(path string, fill func(*os.File) error) (mark fileMark, err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fileMark{}, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := fill(file); err != nil {
		return fileMark{}, err
	}
	info, err := file.Stat()
	if err != nil {
		return fileMark{}, err
	}
	return markOf(info), nil
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

// load puts a saved state into a machine that was started for it, once its memory is there.
func (m *machine) load(ctx context.Context, saved *saved) error {
	end, err := m.begin(ctx, "restore", paused)
	if err != nil {
		return err
	}
	defer end()
	if err := saved.awaitMemory(ctx); err != nil {
		return err
	}
	return m.migrate(ctx, "migrate-incoming", saved.state)
}

// saved is a saved machine, opened.
type saved struct {
	state, memory *os.File
	copied        <-chan error // the result of the copying of memory, then closed; nil: it is not copied
}

// openSaved opens what Save wrote, if it fits the plan and nobody has touched it. The caller closes it.
func openSaved(dir string, p *plan) (_ *saved, err error) {
	have, err := readDescription(dir)
	if err != nil {
		return nil, err
	}
	want, err := p.ingredients()
	if err != nil {
		return nil, err
	}
	if changed := differences(have.Ingredients, want); len(changed) > 0 {
		return nil, fmt.Errorf("the saved machine is another (%v): save one like this: %w", changed, errdefs.ErrFailedPrecondition)
	}
	return have.open(dir)
}

// open opens the files of a saved machine, if nobody has touched them. The caller closes them.
func (d description) open(dir string) (*saved, error) {
	state, err := openMarked(filepath.Join(dir, stateFile), d.State)
	if err != nil {
		return nil, err
	}
	memory, err := openMarked(filepath.Join(dir, memoryFile), d.Memory)
	if err != nil {
		return nil, errors.Join(err, state.Close())
	}
	return &saved{state: state, memory: memory}, nil
}

// CheckSaved implements hypervisor.Driver.
func (d *Driver) CheckSaved(dir string) error {
	have, err := readDescription(dir)
	if err != nil {
		return err
	}
	for _, ingredient := range have.Ingredients {
		if ingredient.Path == "" {
			continue
		}
		identity, err := fileIdentity(ingredient.Path)
		if errors.Is(err, os.ErrNotExist) || err == nil && identity != ingredient.Value {
			return fmt.Errorf("the %s %s is no more what it was: %w", ingredient.Name, ingredient.Path, errdefs.ErrFailedPrecondition)
		}
		if err != nil {
			return err
		}
	}
	saved, err := have.open(dir)
	if err != nil {
		return err
	}
	saved.close()
	return nil
}

func readDescription(dir string) (description, error) {
	text, err := os.ReadFile(filepath.Join(dir, descriptionFile))
	if errors.Is(err, os.ErrNotExist) {
		return description{}, fmt.Errorf("no saved machine there: save one first: %w", errdefs.ErrNotFound)
	}
	if err != nil {
		return description{}, err
	}
	var d description
	if err := json.Unmarshal(text, &d); err != nil {
		return description{}, fmt.Errorf("%s: %w: save the machine again: %w", descriptionFile, err, errdefs.ErrFailedPrecondition)
	}
	return d, nil
}

// differences names the ingredients that two machines do not have in common.
func differences(have, want []hypervisor.Ingredient) (names []string) {
	for _, ingredient := range slices.Concat(have, want) {
		if !(slices.Contains(have, ingredient) && slices.Contains(want, ingredient)) && !slices.Contains(names, ingredient.Name) {
			names = append(names, ingredient.Name)
		}
	}
	return names
}

// close waits until nobody reads the files any more. To close can only fail on files that were written.
func (s *saved) close() {
	if s.copied != nil {
		<-s.copied
	}
	_ = s.state.Close()
	_ = s.memory.Close()
}

// takeMemory returns the memory of a machine that gets the saved state: the saved file itself, if the machine is going to copy what it
// writes, else a copy, whose making goes on (awaitMemory). It is the caller's.
func (s *saved) takeMemory(private bool) (*os.File, error) {
	info, err := s.memory.Stat()
	if err != nil {
		return nil, err
	}
	if private {
		return duplicate(s.memory)
	}
	memory, err := newMemory(int(info.Size() >> 20))
	if err != nil {
		return nil, err
	}
	target, err := duplicate(memory)
	if err != nil {
		return nil, errors.Join(err, memory.Close())
	}
	copied := make(chan error, 1)
	s.copied = copied
	go func() {
		copied <- errors.Join(copySparse(target, s.memory), target.Close())
		close(copied)
	}()
	return memory, nil
}

// awaitMemory waits until the memory is what was saved.
func (s *saved) awaitMemory(ctx context.Context) error {
	if s.copied == nil {
		return nil
	}
	select {
	case err := <-s.copied:
		if err != nil {
			return fmt.Errorf("copy the saved memory: %w", err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
