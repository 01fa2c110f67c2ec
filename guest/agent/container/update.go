package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"
	"github.com/go-json-experiment/json"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
)

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
	settings, err := settingsOf(resources)
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	before, err := c.cgroup.contents(settings)
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	if err := c.cgroup.apply(settings); err != nil {
		return fmt.Errorf("update container %s: %w", c.id, errors.Join(err, c.cgroup.restore(before)))
	}
	return nil
}

// contents are what the files of settings say now, as far as there are such files.
func (g cgroup) contents(settings []setting) ([]setting, error) {
	var now []setting
	for _, s := range settings {
		content, err := os.ReadFile(g.file(s.name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		now = append(now, setting{s.name, string(content)})
	}
	return now, nil
}

// restore makes the settings that are not what they were.
func (g cgroup) restore(before []setting) error {
	var errs []error
	for _, old := range before {
		now, err := os.ReadFile(g.file(old.name))
		if err == nil && string(now) != old.content {
			err = os.WriteFile(g.file(old.name), []byte(old.content), 0)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("restore %s: %w", old.name, err))
		}
	}
	return errors.Join(errs...)
}
