package runtime

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/limpet-run/limpet/runtime/config"
)

// makeTestNetwork makes the sandbox's network by plugins that do nothing, and returns the path of the file in which the last of them
// notes what it was asked for.
func makeTestNetwork(t *testing.T, sandbox *Sandbox) string {
	t.Helper()
	dir := t.TempDir()
	calls := filepath.Join(dir, "calls")
	const plugin = "#!/bin/sh\ncat > /dev/null\n[ $CNI_COMMAND != ADD ] || echo '{\"cniVersion\": \"1.0.0\"}'\n"
	for name, text := range map[string]string{"bridge": plugin, "firewall": plugin + "echo $CNI_COMMAND >> " + calls} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	settings := config.Default().Network
	settings.PluginDirs, settings.LeasesDir = []string{dir}, dir
	if err := sandbox.MakeNetwork(t.Context(), settings); err != nil {
		t.Fatal(err)
	}
	return calls
}

// TestMakeNetwork makes a network namespace where a container's specification can name it; it goes with the sandbox.
func TestMakeNetwork(t *testing.T) {
	w := newTestSandbox(t)
	calls := makeTestNetwork(t, w.Sandbox)
	path := NetworkPath(filepath.Dir(w.dir.path), w.namespace, w.id)
	inNetwork(t, path, "ip link show lo | grep -q LOWER_UP")
	w.bundle = writeBundle(t, joined(path))
	w.run(t, IO{})
	if err := w.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
	if text, err := os.ReadFile(calls); err != nil || string(text) != "ADD\nDEL\n" {
		t.Errorf("the plugin was asked for %q, %v", text, err)
	}
}
