package harness

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
)

// GuestImage writes a guest image into dir and returns its path: limpet's own, with the program guestinit laid over its agent.
func (b Build) GuestImage(ctx context.Context, dir string) (string, error) {
	root, err := repository()
	if err != nil {
		return "", err
	}
	program, overlay := filepath.Join(dir, "guestinit"), filepath.Join(dir, "overlay")
	for _, args := range [][]string{
		{"build", "-ldflags", "-s -w", "-o", program, "./integration/cmd/guestinit"},
		{"run", "./guest/image", "-agent", program, "-crun", program, "-out", overlay},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // the image has no libraries
		if err := Run(cmd).Err(); err != nil {
			return "", err
		}
	}
	// The kernel unpacks archives that follow each other into the same place; a later file replaces an earlier one.
	var image []byte
	for _, path := range []string{b.Path("initramfs"), overlay} {
		archive, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		image = append(image, archive...)
	}
	path := filepath.Join(dir, "image")
	return path, os.WriteFile(path, image, 0o600)
}
