package machine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	// processorsDir has a directory for each processor.
	processorsDir = "/sys/devices/system/cpu"
	// memoryMap lists the machine's memory by address, and addedMemory is how it names what virtio-mem has added.
	memoryMap   = "/proc/iomem"
	addedMemory = "System RAM (virtio_mem)"
)

// UseProcessors starts processors until at least that many run. Those that run are left alone.
func UseProcessors(count uint64) error {
	running, err := useProcessors(processorsDir, count)
	if err == nil && running < count {
		err = fmt.Errorf("the machine has %d: %w", running, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return fmt.Errorf("use %d processors: %w", count, err)
	}
	return nil
}

// useProcessors returns how many run then.
func useProcessors(dir string, count uint64) (running uint64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var stopped []string
	for _, entry := range entries {
		number, ok := strings.CutPrefix(entry.Name(), "cpu")
		if _, err := strconv.ParseUint(number, 10, 16); !ok || err != nil {
			continue
		}
		file := filepath.Join(dir, entry.Name(), "online")
		state, err := os.ReadFile(file)
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return running, err
		case strings.TrimSpace(string(state)) == "0":
			stopped = append(stopped, file)
		default: // one that cannot be stopped, such as the first, has no such file
			running++
		}
	}
	for _, file := range stopped {
		if running >= count {
			break
		}
		if err := os.WriteFile(file, []byte("1"), 0); err != nil {
			return running, err
		}
		running++
	}
	return running, nil
}

// AwaitMemory waits until at least that many bytes have been added to the memory that the machine started with. The kernel puts them
// to use by itself (memhp_default_state).
func AwaitMemory(ctx context.Context, size uint64) error {
	err := Await(ctx, func() (bool, error) {
		content, err := os.ReadFile(memoryMap)
		return memoryAdded(content) >= size, err
	})
	if err != nil {
		return fmt.Errorf("wait for %d MiB of added memory: %w", size>>20, err)
	}
	return nil
}

// memoryAdded sums up what a memory map lists as added: lines of "first-last : name", in hexadecimal, indented.
func memoryAdded(content []byte) (total uint64) {
	for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
		span, name, _ := strings.Cut(strings.TrimSpace(lines.Text()), " : ")
		if name != addedMemory {
			continue
		}
		low, high, _ := strings.Cut(span, "-")
		first, firstErr := strconv.ParseUint(low, 16, 64)
		last, lastErr := strconv.ParseUint(high, 16, 64)
		if firstErr == nil && lastErr == nil && last >= first {
			total += last - first + 1
		}
	}
	return total
}
