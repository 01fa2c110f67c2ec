package runtime

import (
	"context"
	"path/filepath"

	"github.com/limpet-run/limpet/runtime/bridge"
	"github.com/limpet-run/limpet/runtime/config"
)

// NetworkPath is where MakeNetwork makes the network namespace of a sandbox.
func NetworkPath(stateDir, namespace, id string) string {
	return filepath.Join(StatePath(stateDir, namespace, id), netnsFile)
}

// MakeNetwork makes a network of limpet's own for the sandbox, as the configuration describes it: a network namespace at NetworkPath, for
// a container's specification to name, with an interface on the host's bridge. It goes with the sandbox, after its containers.
func (s *Sandbox) MakeNetwork(ctx context.Context, settings config.Network) error {
	plan, err := bridge.Plan(settings, filepath.Base(s.dir.path), filepath.Join(s.dir.path, netnsFile))
	if err != nil {
		return err
	}
	if err := s.dir.update(func(record *record) { record.Bridge = &plan }); err != nil {
		return err
	}
	s.undo.push("remove the network", plan.Remove)
	return plan.Make(ctx)
}
