package runtime

import (
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// defaultPath is where programs are looked for if a process's environment does not say: what the guest's crun takes.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// programPlaces are the paths, as the container has them, at which its program may be, in the order of the search.
func programPlaces(process *specs.Process) []string {
	program := process.Args[0]
	if strings.Contains(program, "/") {
		if !path.IsAbs(program) {
			program = path.Join("/", process.Cwd, program)
		}
		return []string{path.Clean(program)}
	}
	search := defaultPath
	for _, variable := range process.Env {
		if value, ok := strings.CutPrefix(variable, "PATH="); ok {
			search = value
			break
		}
	}
	var places []string
	for dir := range strings.SplitSeq(search, ":") {
		if !path.IsAbs(dir) {
			dir = path.Join("/", process.Cwd, dir)
		}
		places = append(places, path.Join(dir, program))
	}
	return places
}

// checkProgram is an ErrNotFound if the container's program is certainly not in its root file system, and an ErrPermissionDenied if it
// cannot be executed, so that Create fails where its caller can still mend it, and not Start. What a mount of the container covers is not
// judged: the mounts are made by Start.
func checkProgram(root string, spec *specs.Spec) error {
	mounted := func(file string) bool {
		for _, mount := range spec.Mounts {
			if destination := path.Clean(mount.Destination); file == destination || strings.HasPrefix(file, destination+"/") {
				return true
			}
		}
		return false
	}
	denied := false
	for _, place := range programPlaces(spec.Process) {
		if mounted(place) {
			return nil
		}
		file, err := fs.RootPath(root, place) // follows links as the container would
		if err != nil {
			continue
		}
		if mounted(strings.TrimPrefix(file, root)) {
			return nil
		}
		info, err := os.Stat(file)
		switch {
		case err != nil:
		case info.Mode().IsRegular() && info.Mode()&0o111 != 0:
			return nil
		default:
			denied = true
		}
	}
	if denied {
		return fmt.Errorf("program %q cannot be executed: it is no file with the permission to: %w", spec.Process.Args[0],
			errdefs.ErrPermissionDenied)
	}
	return fmt.Errorf("program %q is not in its root file system: check the command and $PATH: %w", spec.Process.Args[0], errdefs.ErrNotFound)
}
