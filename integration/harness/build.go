// Package harness runs limpet, or another runtime, under a containerd of its own: what the end-to-end tests and the
// benchmarks share.
//
// Everything a run makes is below one directory with a unique name (Daemon.Dir). That is what makes its leaks findable: a
// process, a mount or a socket that mentions the directory belongs to the run.
package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Build is the directory with everything the project's own run needs.
type Build string

// artifact is a file of a build directory: the make target that makes it, and the only runtime that needs it, if not all do.
type artifact struct{ path, target, runtime string }

var artifacts = []artifact{
	{"bin/containerd", "containerd", ""},
	{"bin/ctr", "containerd", ""},
	{"bin/nerdctl", "containerd", ""},
	{"bin/cni/bridge", "containerd", ""},
	{"busybox.tar", "guest", ""},
	{"pause.tar", "guest", ""},
	{"bin/containerd-shim-runc-v2", "containerd", Runc},
	{"bin/runc", "containerd", Runc},
	{"bin/containerd-shim-limpet-v2", "build", Limpet},
	{"bin/limpet", "build", Limpet},
	{"bin/vhost-device-vsock", "guest", Limpet},
	{"vmlinux", "guest", Limpet},
	{"initramfs", "guest", Limpet},
	{"tools/limpet-images", "guest", Limpet},
}

// FindBuild returns the directory named by LIMPET_BUILD, or else the directory build of the repository that the working
// directory is in. Its error names every file that is missing for the runtimes, with the make target that makes it.
func FindBuild(runtimes ...string) (Build, error) {
	dir := os.Getenv("LIMPET_BUILD")
	if dir == "" {
		root, err := repository()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(root, "build")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	var missing []error
	for _, artifact := range artifacts {
		if artifact.runtime != "" && !slices.Contains(runtimes, artifact.runtime) {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, artifact.path)); err != nil {
			missing = append(missing, fmt.Errorf("%w: run `make %s`", err, artifact.target))
		}
	}
	return Build(dir), errors.Join(missing...)
}

// Path returns the path of a file of the build, such as "bin/ctr".
func (b Build) Path(name string) string { return filepath.Join(string(b), name) }

// repository returns the nearest directory with a go.mod, from the working directory upwards.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod here or above: set LIMPET_BUILD or work inside limpet's repository")
		}
		dir = parent
	}
}
