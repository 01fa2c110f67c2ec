package runtime

import (
	"context"

	"github.com/limpet-run/limpet/runtime/cgroup"
)

// makeCgroup makes the cgroup in which the sandbox's processes on the host are started. See package cgroup.
func (s *Sandbox) makeCgroup(cgroupsPath string) error {
	path, err := cgroup.Path(cgroupsPath)
	if err != nil || path == "" {
		return err
	}
	host := cgroup.ThisHost()
	located, err := host.Locate(path)
	if err != nil {
		return err
	}
	directories := located.Directories()
	if err := s.dir.update(func(record *record) { record.Cgroup = directories }); err != nil {
		return err
	}
	// Pushed before, because it may have been made in some hierarchies when another fails.
	s.undo.push("remove the cgroup", func(ctx context.Context) error { return cgroup.Remove(ctx, directories) })
	if err := host.Make(path, s.log); err != nil {
		return err
	}
	s.cgroup = located
	return nil
}
