package container

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
)

// parseSpec reads a container's specification and checks what everything here relies on. It is read by the library that reads messages:
// in an emulated guest, that of the language itself would be as much code again that has not run yet.
func parseSpec(raw []byte) (*specs.Spec, error) {
	var spec specs.Spec
	if err := json.Unmarshal(raw, &spec); err != nil {
		return nil, fmt.Errorf("specification: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if err := checkProcess(spec.Process); err != nil {
		return nil, err
	}
	if spec.Linux == nil {
		return nil, fmt.Errorf("specification: no linux section: %w", errdefs.ErrInvalidArgument)
	}
	return &spec, nil
}

func checkProcess(process *specs.Process) error {
	switch {
	case process == nil:
		return fmt.Errorf("specification: no process: %w", errdefs.ErrInvalidArgument)
	case len(process.Args) == 0 || process.Args[0] == "":
		return fmt.Errorf("specification: the process has no program: %w", errdefs.ErrInvalidArgument)
	case !filepath.IsAbs(process.Cwd):
		return fmt.Errorf("specification: working directory %q is not absolute: %w", process.Cwd, errdefs.ErrInvalidArgument)
	}
	return nil
}

// hasNamespace tells whether the container has a namespace of that kind that is not the guest's own.
func hasNamespace(linux *specs.Linux, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

// localize returns the specification with this guest's rootfs, control group and namespaces, with the user as he is known there, and the
// terminal's size, and all else unchanged.
func localize(raw []byte, rootfs, cgroup string, namespaces []specs.LinuxNamespace, user specs.User, size *protocol.Size,
) ([]byte, error) {
	return edit(raw, map[string]func([]byte) ([]byte, error){
		"root":  setter(map[string]any{"path": rootfs}),
		"linux": setter(map[string]any{"cgroupsPath": cgroup, "namespaces": namespaces}),
		"process": func(process []byte) ([]byte, error) {
			changes := map[string]any{"user": user}
			if size != nil {
				changes["consoleSize"] = boxOf(*size)
			}
			return setter(changes)(process)
		},
	})
}

func boxOf(size protocol.Size) *specs.Box {
	return &specs.Box{Width: uint(size.Cols), Height: uint(size.Rows)}
}

// edit changes some members of a JSON object.
func edit(object []byte, edits map[string]func([]byte) ([]byte, error)) ([]byte, error) {
	members := map[string]jsontext.Value{}
	if len(object) > 0 {
		if err := json.Unmarshal(object, &members); err != nil {
			return nil, fmt.Errorf("specification: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	for name, change := range edits {
		value, err := change(members[name])
		if err != nil {
			return nil, err
		}
		members[name] = value
	}
	return json.Marshal(members)
}

// setter sets members of a JSON object.
func setter(values map[string]any) func([]byte) ([]byte, error) {
	edits := make(map[string]func([]byte) ([]byte, error), len(values))
	for name, value := range values {
		edits[name] = func([]byte) ([]byte, error) { return json.Marshal(value) }
	}
	return func(object []byte) ([]byte, error) { return edit(object, edits) }
}

// writeBundle makes the container's directory a bundle with its specification.
func (l *launch) writeBundle() error {
	c := l.container
	spec, err := localize(l.raw, c.rootfs, "/"+cgroupName(c.id), l.spec.Linux.Namespaces, l.process.User, l.size)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return fmt.Errorf("make the bundle: %w", err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "config.json"), spec, 0o600); err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	return nil
}
