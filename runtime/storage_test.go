package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime/config"
)

// TestOpenStorage makes a storage disk's file, which is large, takes no room and has no name.
func TestOpenStorage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "to", "be", "made")
	file, err := openStorage(config.Storage{Dir: dir, MiB: 512})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var status unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &status); err != nil || status.Size != 512<<20 || status.Blocks > 8 || status.Nlink != 0 {
		t.Errorf("it is %+v, %v", status, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("there is %v, %v", left, err)
	}
	if file, err := openStorage(config.Storage{Dir: dir}); file != nil || err != nil {
		t.Errorf("none was asked for: %v, %v", file, err)
	}
	if _, err := openStorage(config.Storage{Dir: "/proc", MiB: 64}); err == nil || !strings.Contains(err.Error(), "storage.dir") {
		t.Errorf("where no file can be: %v", err)
	}
}
