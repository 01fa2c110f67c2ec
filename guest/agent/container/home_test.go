package container

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestHomes asks for homes while the password file changes. It is a file of this test's own: the test has a mount namespace for it.
func TestHomes(t *testing.T) {
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", "/etc", "tmpfs", 0, ""); err != nil {
			return err
		}
		var h homes
		later := time.Now().Add(time.Hour)
		for _, step := range []struct {
			content string
			now     time.Time
			want    string
			kept    int
		}{
			{"", later, "/", 0}, // no file
			{"root:x:0:0::/root:/bin/sh\n", time.Now(), "/root", 0},
			{"root:x:0:0::/first:/bin/sh\n", later, "/first", 1},
			{"root:x:0:0::/second:/bin/sh\n", later, "/second", 1},
			{"nobody:x:1:1::/nowhere:/bin/sh\n", later, "/", 1},
		} {
			if step.content != "" {
				// A file of its own, whose times may be those of the last one, or not.
				if err := os.WriteFile("/etc/new", []byte(step.content), 0o644); err != nil {
					return err
				}
				if err := os.Rename("/etc/new", passwdFile); err != nil {
					return err
				}
			}
			for range 2 {
				if got := h.of(0, step.now); got != step.want {
					t.Errorf("with %q: got %q, want %q", step.content, got, step.want)
				}
			}
			if len(h.known) != step.kept {
				t.Errorf("with %q: remembered %v", step.content, h.known)
			}
		}
		for uid := range uint32(maxHomes + 1) {
			h.of(uid, later)
		}
		if len(h.known) > maxHomes {
			t.Errorf("%d are remembered", len(h.known))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
