package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
)

// newMemory makes a machine's memory: an anonymous file, empty, the caller's to close.
func newMemory(mebibytes int) (*os.File, error) {
	fd, err := unix.MemfdCreate(hypervisor.MemoryName, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make the machine's memory: %w", err)
	}
	file := os.NewFile(uintptr(fd), hypervisor.MemoryName)
	if err := file.Truncate(int64(mebibytes) << 20); err != nil {
		return nil, errors.Join(fmt.Errorf("make the machine's memory: %w", err), file.Close())
	}
	return file, nil
}

// copySparse copies what there is of source, and leaves holes where it has holes. target is empty; it gets source's length. The kernel
// copies from one file to the other: by way of a buffer it takes a third longer.
func copySparse(target, source *os.File) error {
	return copyData(target, source, func(start, end int64) error {
		if _, err := target.Seek(start, io.SeekStart); err != nil {
			return err
		}
		for start < end { // sendfile moves start
			n, err := unix.Sendfile(int(target.Fd()), int(source.Fd()), &start, int(end-start))
			if err == nil && n == 0 {
				err = io.ErrUnexpectedEOF // somebody has cut the file
			}
			if err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("copy %s: %w", source.Name(), err)
			}
		}
		return nil
	})
}

// pageSize is that of the guest's memory and of the file's.
const pageSize = 4096

// copyNonzero is copySparse that leaves holes where source has pages of zeroes, too.
func copyNonzero(target, source *os.File) error {
	var zeroes [pageSize]byte
	buffer := make([]byte, 256*pageSize)
	return copyData(target, source, func(start, end int64) error {
		for ; start < end; start += int64(len(buffer)) {
			data := buffer[:min(int64(len(buffer)), end-start)]
			if _, err := source.ReadAt(data, start); err != nil {
				return err
			}
			for i := 0; i < len(data); i += pageSize {
				page := data[i:min(i+pageSize, len(data))]
				if bytes.Equal(page, zeroes[:len(page)]) {
					continue
				}
				if _, err := target.WriteAt(page, start+int64(i)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// copyData gives target the length of source, and has copySpan copy what is between source's holes.
func copyData(target, source *os.File, copySpan func(start, end int64) error) error {
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
		if err := copySpan(start, end); err != nil {
			return err
		}
		offset = end
	}
	return nil
}
