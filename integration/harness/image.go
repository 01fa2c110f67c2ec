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
	program, err := Program(ctx, dir, "guestinit")
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay")
	cmd := exec.CommandContext(ctx, "go", "run", "./guest/image", "-agent", program, "-crun", program, "-out", overlay)
	cmd.Dir = root
	if err := Run(cmd).Err(); err != nil {
		return "", err
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

// Program builds a program of integration/cmd, which needs no library, into dir and returns its path.
func Program(ctx context.Context, dir, name string) (string, error) {
	root, err := repository()
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", program, "./integration/cmd/"+name)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return program, Run(cmd).Err()
}
