package install

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/config"
)

// programDir is where `make install` puts programs; it is in the PATH that systemd gives containerd.
const programDir = "/usr/local/bin"

// installed are limpet's own files, at the places that the default configuration has for them.
func installed() []Change {
	defaults := config.Default()
	return []Change{
		{Path: filepath.Join(programDir, "containerd-shim-limpet-v2"), Mode: 0o755},
		{Path: filepath.Join(programDir, limpetProgram), Mode: 0o755},
		{Path: filepath.Join(programDir, defaults.Vsock.Daemon), Mode: 0o755},
		{Path: defaults.Kernel, Mode: 0o644},
		{Path: defaults.Image, Mode: 0o644},
		{Path: filepath.Join(defaults.Tools, "limpet-images"), Mode: 0o755},
		{Path: filepath.Join(defaults.Tools, "mke2fs"), Mode: 0o755},
		{Path: filepath.Join(defaults.Tools, "busybox"), Mode: 0o755},
	}
}

// Change is one file as it is to be.
type Change struct {
	Path   string // as the host knows it
	Copy   string // the file whose content it gets; empty: Text is the content
	Text   []byte
	Mode   fs.FileMode
	Remove bool
}

// String says what the change does.
func (c Change) String() string {
	switch {
	case c.Remove:
		return "remove " + c.Path
	case c.Copy != "":
		return fmt.Sprintf("copy %s to %s", c.Copy, c.Path)
	}
	return "write " + c.Path
}

// Plan is everything that an installation or its removal does to files.
type Plan struct {
	Files      []Change // limpet's own
	Containerd []Change // containerd's configuration
	Notes      []string // what stays as it is, and why
	Templates  string   // the directory of templates, which is to go; empty: there is none, or it stays
}

// planFiles plans the copies of limpet's files from another root, of which the host has not the same already. A file that the
// configuration has elsewhere is the operator's.
func planFiles(host host, from string, settings config.Config) ([]Change, error) {
	same, err := sameFile(host.root, from)
	if err != nil || same {
		return nil, err
	}
	defaults := config.Default()
	var changes []Change
	for _, change := range installed() {
		switch {
		case change.Path == defaults.Kernel && settings.Kernel != defaults.Kernel,
			change.Path == defaults.Image && settings.Image != defaults.Image,
			filepath.Dir(change.Path) == defaults.Tools && settings.Tools != defaults.Tools:
			continue
		}
		source, err := newHost(from).path(change.Path)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(source); err != nil {
			return nil, fmt.Errorf("a part of limpet is missing: %w: `make install DESTDIR=%s` in limpet's source puts it there", err, from)
		}
		target, err := host.path(change.Path)
		if err != nil {
			return nil, err
		}
		change.Copy = source
		same, err := sameContent(source, target, change.Mode)
		if err != nil {
			return nil, err
		}
		if !same {
			changes = append(changes, change)
		}
	}
	return changes, nil
}

// containerdChanges are the changes of a plan: the drop-in before the line that imports it, and the copy of what is replaced first
// of all.
func containerdChanges(files containerdFiles, mode fs.FileMode, plan containerdPlan) []Change {
	var changes []Change
	if plan.main != nil && files.main != nil {
		changes = append(changes, Change{Path: backupPath(files.path), Text: files.main, Mode: mode})
	}
	if plan.dropIn != nil {
		changes = append(changes, Change{Path: dropInPath(files.path), Text: plan.dropIn, Mode: 0o644})
	}
	if plan.main != nil {
		changes = append(changes, Change{Path: files.path, Text: plan.main, Mode: mode})
	}
	return changes
}

// backupPath is where the main file is kept as it was. The name is none of a drop-in.
func backupPath(main string) string { return main + ".before-limpet" }

// planRemoval computes how containerd's configuration loses limpet's handlers. The main file is as before where that is known for
// sure; if not, its import stays, which does no harm.
func planRemoval(files containerdFiles, backup []byte, mode fs.FileMode) ([]Change, []string, error) {
	var changes []Change
	var notes []string
	var before mainFile
	imported, known := []byte(nil), false
	if backup != nil {
		if err := toml.Unmarshal(backup, &before); err == nil {
			imported, err = addImport(backup, before.Imports)
			known = err == nil
		}
	}
	switch {
	case files.main == nil:
	case len(files.dropIns) > 0 && (backup != nil || bytes.Equal(files.main, newMain())):
		notes = append(notes, fmt.Sprintf("%s stays as it is, as it imports other drop-ins too", files.path))
	case bytes.Equal(files.main, newMain()):
		changes = append(changes, Change{Path: files.path, Remove: true})
	case known && bytes.Equal(files.main, imported):
		changes = append(changes, Change{Path: files.path, Text: backup, Mode: mode}, Change{Path: backupPath(files.path), Remove: true})
	case backup != nil:
		notes = append(notes, fmt.Sprintf("%s was changed since it was given an import of %q, which stays and does no harm; how it was "+
			"before is in %s", files.path, dropInPattern, backupPath(files.path)))
	}
	if files.dropIn != nil {
		if !bytes.HasPrefix(files.dropIn, []byte(dropInHeader)) {
			return nil, nil, fmt.Errorf("drop-in %s was not made by limpet: remove it by hand: %w", dropInPath(files.path),
				errdefs.ErrFailedPrecondition)
		}
		changes = append(changes, Change{Path: dropInPath(files.path), Remove: true})
	}
	return changes, notes, nil
}

// planUninstall plans the removal of limpet's files, and refuses it while there are sandboxes, whose shims need them.
func planUninstall(host host, settings config.Config) ([]Change, error) {
	stateDir, err := host.path(settings.StateDir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(stateDir); err == nil {
		sandboxes, err := runtime.Sandboxes(stateDir)
		if err != nil {
			return nil, err
		}
		if len(sandboxes) > 0 {
			return nil, fmt.Errorf("%d sandboxes run with limpet, the first is %s: remove them first: %w", len(sandboxes), sandboxes[0].ID,
				errdefs.ErrFailedPrecondition)
		}
	}
	var changes []Change
	for _, change := range installed() {
		path, err := host.path(change.Path)
		if err != nil {
			return nil, err
		}
		if _, err := os.Lstat(path); err == nil {
			changes = append(changes, Change{Path: change.Path, Remove: true})
		}
	}
	return changes, nil
}
