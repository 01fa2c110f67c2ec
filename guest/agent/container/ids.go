package container

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

// maxID is the longest container id, in bytes: containerd itself allows 76.
const maxID = 128

// checkID refuses what cannot be a directory's or a control group's name in one piece.
func checkID(id string) error {
	valid := id != "" && len(id) <= maxID && !strings.Contains(id, "..") && id != "."
	for i := 0; valid && i < len(id); i++ {
		c := id[i]
		valid = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == '-'
	}
	if !valid {
		return fmt.Errorf("container id %.*q: want 1 to %d letters, digits, _, . and -, without \"..\": %w", maxID, id, maxID,
			errdefs.ErrInvalidArgument)
	}
	return nil
}

// maxPath is the longest path that Linux takes (PATH_MAX).
const maxPath = 4096

// below returns rel as a path below root, and refuses one that leads out of it.
func below(root, rel string) (string, error) {
	clean := path.Clean("/" + rel)
	if rel == "" || len(rel) > maxPath || clean == "/" || strings.ContainsRune(rel, 0) ||
		clean[1:] != path.Clean(strings.TrimPrefix(rel, "/")) {
		return "", fmt.Errorf("path %.*q: want one below %s: %w", maxID, rel, root, errdefs.ErrInvalidArgument)
	}
	return path.Join(root, clean), nil
}
