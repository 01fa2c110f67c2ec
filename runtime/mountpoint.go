package runtime

import (
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/runtime/oci"
)

// checkMountPoints is an ErrInvalidArgument if a file of the host is to be mounted on a directory of the container's root file system, or
// a directory on a file. The guest would refuse it, too, but knows neither of the two by the name that its user gave it. What another
// mount of the container covers is not judged.
func checkMountPoints(root string, spec *specs.Spec, binds []oci.Bind) error {
	for _, bind := range binds {
		destination := path.Join("/", bind.Destination)
		place, err := fs.RootPath(root, destination) // follows links as the container would
		if err != nil || covered(destination, spec.Mounts) || covered(path.Join("/", strings.TrimPrefix(place, root)), spec.Mounts) {
			continue
		}
		there, err := os.Stat(place)
		if err != nil { // it is made
			continue
		}
		source, err := os.Stat(bind.Source)
		if err != nil {
			continue // is said by who mounts it
		}
		if source.IsDir() != there.IsDir() {
			return fmt.Errorf("mount on %s: %s is %s, and the container's file system has %s there: mount it elsewhere: %w",
				bind.Destination, bind.Source, kindOf(source), kindOf(there), errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// covered tells whether a mount lies above a path, or several on it.
func covered(file string, mounts []specs.Mount) bool {
	same := 0
	for _, mount := range mounts {
		destination := path.Join("/", mount.Destination)
		if destination == file {
			same++
		}
		if strings.HasPrefix(file, strings.TrimSuffix(destination, "/")+"/") && destination != file || same > 1 {
			return true
		}
	}
	return false
}

func kindOf(info os.FileInfo) string {
	if info.IsDir() {
		return "a directory"
	}
	return "a file"
}
