package door

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

// TestClear removes a socket that nobody listens on, and nothing else.
func TestClear(t *testing.T) {
	for _, network := range []string{"unix", "unixpacket"} {
		path := filepath.Join(t.TempDir(), "socket")
		if err := Clear(network, path); err != nil {
			t.Errorf("%s: nothing: %v", network, err)
		}
		listener, err := net.ListenUnix(network, &net.UnixAddr{Name: path, Net: network})
		if err != nil {
			t.Fatal(err)
		}
		listener.SetUnlinkOnClose(false)
		if err := Clear(network, path); !errdefs.IsAlreadyExists(err) {
			t.Errorf("%s: a listener: %v", network, err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s: a listener's socket: %v", network, err)
		}
		listener.Close()
		if err := Clear(network, path); err != nil {
			t.Errorf("%s: a stale socket: %v", network, err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a stale socket: %v", network, err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Clear(network, path); !errdefs.IsAlreadyExists(err) {
			t.Errorf("%s: a file: %v", network, err)
		}
	}
}
