package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/internal/defaultspec"
)

// rehearsalName is the identifier of the container that a spare runs, and the name of its bundle in the state directory.
const rehearsalName = "rehearsal"

// rehearse runs a container and removes it without trace: emulation translates code when it is first run, and what a guest has done once it
// does in a fraction of the time. The program is that of the guest's tools; a host without tools has no rehearsal.
func (s *Sandbox) rehearse(ctx context.Context, tools string) (err error) {
	program := path.Base(protocol.BusyboxProgram)
	if _, err := os.Stat(filepath.Join(tools, program)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	bundle := filepath.Join(s.dir.path, rehearsalName)
	if err := writeRehearsal(bundle, filepath.Join(tools, program)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(bundle)) }()
	s.rehearsing.Store(true)
	defer s.rehearsing.Store(false)
	container, err := s.CreateContainer(ctx, ContainerOptions{
		ID: rehearsalName, Bundle: bundle, IO: IO{Stdout: discard{io.Discard}, Stderr: discard{io.Discard}},
	})
	if err != nil {
		return err
	}
	if err := container.Init().Start(ctx); err != nil {
		return err
	}
	exit, err := container.Init().Wait(ctx)
	if err != nil {
		return err
	}
	if exit.Code != 0 {
		return fmt.Errorf("its container ends with %d", exit.Code)
	}
	_, err = container.Delete(ctx)
	return err
}

// discard is an end of a stream that nobody reads.
type discard struct{ io.Writer }

func (discard) Close() error { return nil }

// writeRehearsal makes the bundle of the rehearsal.
func writeRehearsal(bundle, program string) error {
	text, err := json.Marshal(rehearsalSpec(program))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(bundle, rootfsDir), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600)
}

// rehearsalSpec is a container as containerd makes them, whose program says a word.
func rehearsalSpec(program string) *specs.Spec {
	const inside = "/busybox" // by its name it knows what it is
	return &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Args: []string{inside, "echo", "ready"}, Cwd: "/", Env: []string{"PATH=/"}, NoNewPrivileges: true,
			Capabilities: defaultspec.Capabilities(), Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
		},
		Root: &specs.Root{Path: rootfsDir},
		Mounts: append(defaultspec.Mounts(), specs.Mount{
			Destination: inside, Type: "bind", Source: program, Options: []string{"bind", "ro"},
		}),
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace}, {Type: specs.CgroupNamespace},
			},
			MaskedPaths: defaultspec.MaskedPaths(), ReadonlyPaths: defaultspec.ReadonlyPaths(),
			Resources: &specs.LinuxResources{Devices: defaultspec.Devices()},
		},
	}
}
