package machine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Memory that the guest does not use the host has back: the kernel reports free pages (virtio-balloon), and what follows has it free more
// of them.

const (
	// pageListFraction is which part of the memory, at least 60 pages, each processor may keep of freed pages for itself: a list of single
	// pages, which are not reported. The kernel's own choice lets it grow to an eighth.
	pageListFraction     = "/proc/sys/vm/percpu_pagelist_high_fraction"
	pageListFractionPart = "1000"

	// keptCache is how much of files stays in the memory of an idle guest, in bytes: what a small container's programs are. What is
	// given back the host has in its own cache, from which it comes again with 100 MB/s under emulation.
	keptCache = 32 << 20
	// cacheInterval is how often the guest looks whether it has been idle.
	cacheInterval = 10 * time.Second
	// idlePercent is how much of one processor an idle guest uses at most.
	idlePercent = 10
	// statTicks is how many units of /proc/stat are a second: USER_HZ.
	statTicks = 100

	// zeroMargin is what ZeroFree leaves, in bytes, of what the kernel would give: without any it might have to end this process.
	zeroMargin = 4 << 20

	// memoryInfo says how memory is used.
	memoryInfo = "/proc/meminfo"
)

// shortenPageLists has freed memory merge, so that it is reported.
func shortenPageLists() error {
	if err := os.WriteFile(pageListFraction, []byte(pageListFractionPart), 0); err != nil {
		return fmt.Errorf("shorten the lists of free pages: %w", err)
	}
	return nil
}

// ZeroFree fills the free memory with zeroes: when the machine is saved, they take no room, in any of its clones.
func ZeroFree() error {
	// What a processor keeps for itself counts as used, until it has freed as much again.
	if err := useOnce(zeroMargin); err != nil {
		return err
	}
	meminfo, err := os.ReadFile(memoryInfo)
	if err != nil {
		return fmt.Errorf("how much memory is free: %w", err)
	}
	if free := min(kibibytes(meminfo, "MemFree"), kibibytes(meminfo, "MemAvailable")) << 10; free > zeroMargin {
		return useOnce(int(free - zeroMargin))
	}
	return nil
}

// useOnce takes so many bytes of memory, which the kernel fills with zeroes, and frees them. It takes small pages: those that are free one
// by one, too.
func useOnce(bytes int) error {
	memory, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err == nil {
		err = errors.Join(unix.Madvise(memory, unix.MADV_NOHUGEPAGE), unix.Madvise(memory, unix.MADV_POPULATE_WRITE), unix.Munmap(memory))
	}
	if err != nil {
		return fmt.Errorf("use %d bytes of memory: %w", bytes, err)
	}
	return nil
}

// TrimCache gives back what an idle guest has in its memory of files, but for keptCache, until the context ends.
func TrimCache(ctx context.Context, logger *slog.Logger) {
	ticker := time.NewTicker(cacheInterval)
	defer ticker.Stop()
	var busyBefore uint64
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		stat, statErr := os.ReadFile("/proc/stat")
		meminfo, memErr := os.ReadFile(memoryInfo)
		if err := errors.Join(statErr, memErr); err != nil {
			logger.Warn("file cache is not looked after", "error", err)
			return
		}
		busy := busyTicks(stat)
		if size := excess(meminfo, busy-busyBefore); size > 0 {
			err := os.WriteFile(filepath.Join(CgroupRoot, "memory.reclaim"), strconv.AppendUint(nil, size, 10), 0)
			if err != nil && !errors.Is(err, unix.EAGAIN) { // not all of it can be given back
				logger.Warn("file cache not given back", "bytes", size, "error", err)
			}
		}
		busyBefore = busy
	}
}

// excess is how many bytes of files are to be given back by a guest that was busy for so many ticks of the last cacheInterval.
func excess(meminfo []byte, busy uint64) uint64 {
	const mostTicks = uint64(cacheInterval/time.Second) * statTicks * idlePercent / 100
	// Files of a tmpfs count as anonymous: they cannot be given back.
	cached := kibibytes(meminfo, "Active(file)", "Inactive(file)") << 10
	if busy > mostTicks || cached <= keptCache {
		return 0
	}
	return cached - keptCache
}

// kibibytes sums up values of /proc/meminfo, whose lines are "Name:   1234 kB".
func kibibytes(meminfo []byte, names ...string) (total uint64) {
	for lines := bufio.NewScanner(bytes.NewReader(meminfo)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if slices.Contains(names, name) {
			number, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 53)
			total += number
		}
	}
	return total
}

// busyTicks sums up what all processors have done since the start, in units of /proc/stat.
func busyTicks(stat []byte) (total uint64) {
	const idle, iowait = 4, 5 // fields of the first line, "cpu", beside user, nice, system, irq, softirq, steal
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := strings.Fields(string(line))
	for i := 1; i < min(len(fields), 9); i++ {
		if i != idle && i != iowait {
			ticks, _ := strconv.ParseUint(fields[i], 10, 63)
			total += ticks
		}
	}
	return total
}
