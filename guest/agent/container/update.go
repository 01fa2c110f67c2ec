package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
)

// limitFiles are the control group's files that an update may change, those of "unified" besides.
var limitFiles = []string{
	"cpu.idle", "cpu.weight", "cpu.max", "cpu.max.burst", "memory.max", "memory.low", "memory.high", "memory.min", "pids.max",
}

// Update changes a container's limits. What set them when the container was made sets them now; if it fails, what it has changed is
// taken back.
func (s *Set) Update(ctx context.Context, m protocol.Update) error {
	c, err := s.container(m.ContainerID)
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	var resources *specs.LinuxResources
	if err := json.Unmarshal(m.Resources, &resources); err != nil || resources == nil {
		return fmt.Errorf("update container %s: no resources (%v): %w", c.id, err, errdefs.ErrInvalidArgument)
	}
	s.mu.Lock()
	state := c.state
	s.mu.Unlock()
	if state != running && state != paused {
		return fmt.Errorf("update container %s: it is %v: %w", c.id, state, errdefs.ErrFailedPrecondition)
	}
	files := limitFiles
	for name := range resources.Unified {
		files = append(files[:len(files):len(files)], name)
	}
	before, err := c.cgroup.contents(files)
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	if err := s.crun.update(ctx, c, resources); err != nil {
		return fmt.Errorf("update container %s: %w", c.id, errors.Join(err, c.cgroup.restore(before)))
	}
	return nil
}

// setting is what a file of a control group says.
type setting struct {
	name    string
	content []byte
}

// contents reads those of the files that there are.
func (g cgroup) contents(files []string) ([]setting, error) {
	var settings []setting
	for _, name := range files {
		content, err := os.ReadFile(g.file(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		settings = append(settings, setting{name, content})
	}
	return settings, nil
}

// restore writes the settings that are not what they were.
func (g cgroup) restore(before []setting) error {
	var errs []error
	for _, old := range before {
		now, err := os.ReadFile(g.file(old.name))
		if err == nil && string(now) != string(old.content) {
			err = os.WriteFile(g.file(old.name), old.content, 0)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("restore %s: %w", old.name, err))
		}
	}
	return errors.Join(errs...)
}
