package qemu

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
)

// ingredients is what a saved machine depends on. Programs and images are known by their file's identity: to read them at each start
// would take longer than the start.
func (p *plan) ingredients() ([]hypervisor.Ingredient, error) {
	plain := p.config
	plain.Name, plain.Parks = "", false
	result := []hypervisor.Ingredient{
		{Name: hypervisor.IngredientArguments, Value: strings.Join(arguments(plain, p.accelerator, false), " ")},
	}
	for _, file := range []struct{ name, path string }{{"qemu", p.qemu}, {"kernel", p.config.Kernel}, {"image", p.config.Initrd}} {
		identity, err := fileIdentity(file.path)
		if err != nil {
			return nil, err
		}
		result = append(result, hypervisor.Ingredient{Name: file.name, Path: file.path, Value: identity})
	}
	return result, nil
}

// fileIdentity is a text that changes with the file: which it is, and when it was last written or put in another's place.
func fileIdentity(path string) (string, error) {
	var info unix.Stat_t
	if err := unix.Stat(path, &info); err != nil {
		return "", fmt.Errorf("look at %s: %w", path, err)
	}
	return fmt.Sprintf("inode %d of %d:%d, %d bytes, written %d.%09d, changed %d.%09d", info.Ino, unix.Major(info.Dev), unix.Minor(info.Dev),
		info.Size, info.Mtim.Sec, info.Mtim.Nsec, info.Ctim.Sec, info.Ctim.Nsec), nil
}

// fileMark tells a file from what it becomes when it is cut, written or put in another's place.
type fileMark struct {
	Bytes    int64 `json:"bytes"`
	Modified int64 `json:"modified_unix_nano"`
}

func markOf(file os.FileInfo) fileMark { return fileMark{file.Size(), file.ModTime().UnixNano()} }

// openMarked opens a file that is as it was marked, and ours alone.
func openMarked(path string, want fileMark) (*os.File, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing: save the machine again: %w", path, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, err
	}
	if err := checkMark(file, want); err != nil {
		file.Close()
		return nil, fmt.Errorf("%s %w: save the machine again: %w", path, err, errdefs.ErrFailedPrecondition)
	}
	return file, nil
}

// checkMark says what is wrong with a file: the error completes a sentence.
func checkMark(file *os.File, want fileMark) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	switch have := markOf(info); {
	case owner != uint32(os.Geteuid()):
		return fmt.Errorf("belongs to the user %d", owner)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("has the mode %#o, by which others may use it", info.Mode().Perm())
	case have.Bytes != want.Bytes:
		return fmt.Errorf("has %d bytes and not %d", have.Bytes, want.Bytes)
	case have != want:
		return fmt.Errorf("was changed after it was saved")
	}
	return nil
}

// duplicate opens a file's descriptor once more.
func duplicate(file *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", file.Name(), err)
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}
