package qemu

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// newMemory makes a machine's memory: an anonymous file, empty, the caller's to close.
func newMemory(mebibytes int) (*os.File, error) {
	fd, err := unix.MemfdCreate("limpet-memory", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make the machine's memory: %w", err)
	}
	file := os.NewFile(uintptr(fd), "limpet-memory")
	if err := file.Truncate(int64(mebibytes) << 20); err != nil {
		return nil, errors.Join(fmt.Errorf("make the machine's memory: %w", err), file.Close())
	}
	return file, nil
}

// copySparse copies what there is of source, and leaves holes where it has holes. target is empty; it gets source's length.
func copySparse(target, source *os.File) error {
	info, err := source.Stat()
	if err != nil {
		return err
	}
	if err := target.Truncate(info.Size()); err != nil {
		return err
	}
	for offset := int64(0); offset < info.Size(); {
		start, err := unix.Seek(int(source.Fd()), offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // only a hole is left
			return nil
		}
		if err != nil {
			return fmt.Errorf("find data in %s: %w", source.Name(), err)
		}
		end, err := unix.Seek(int(source.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("find a hole in %s: %w", source.Name(), err)
		}
		if _, err := io.Copy(io.NewOffsetWriter(target, start), io.NewSectionReader(source, start, end-start)); err != nil {
			return err
		}
		offset = end
	}
	return nil
}
