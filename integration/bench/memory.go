package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// memory measures what an idle container adds to the host: the proportional set sizes of all processes that came with it.
func (b *bench) memory() ([]row, error) {
	idle, err := b.runtimes("memory of an idle container (PSS)", "MiB", "", b.runs, b.idleMemory)
	return []row{idle}, err
}

func (b *bench) idleMemory(runtime string) (_ float64, err error) {
	before, err := b.family()
	if err != nil {
		return 0, err
	}
	spec := b.spec(runtime, []string{"--detach", "--null-io"}, "sleep", "1000000")
	if err := b.daemon.Ctr(b.ctx, b.daemon.Args("run", spec)...).Err(); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, b.daemon.Remove(b.ctx, spec.ID)) }()
	return b.memorySince(before)
}

// memorySince is how many MiB the processes have that have come to the family since.
func (b *bench) memorySince(before map[int]bool) (float64, error) {
	after, err := b.family()
	if err != nil {
		return 0, err
	}
	var kibibytes int
	for pid := range after {
		if before[pid] {
			continue
		}
		size, err := proportionalSize(pid)
		if err != nil {
			return 0, err
		}
		kibibytes += size
	}
	return float64(kibibytes) / 1024, nil
}

// family is the run's processes and all their descendants, such as the processes in containers of runc, by process id.
func (b *bench) family() (map[int]bool, error) {
	processes, err := b.daemon.Processes()
	if err != nil {
		return nil, err
	}
	family := map[int]bool{}
	for _, process := range processes {
		family[process.PID] = true
	}
	parents, err := parents()
	if err != nil {
		return nil, err
	}
	for grown := true; grown; {
		grown = false
		for pid, parent := range parents {
			if family[parent] && !family[pid] {
				family[pid], grown = true, true
			}
		}
	}
	return family, nil
}

// parents gives each process of the host its parent.
func parents() (map[int]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	parents := map[int]int{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		// pid (program name, which may have spaces and parentheses) state ppid ...
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		pid, pidErr := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		parent, parentErr := strconv.Atoi(fields[1])
		if err := errors.Join(pidErr, parentErr); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		parents[pid] = parent
	}
	return parents, nil
}

// proportionalSize is a process's Pss in KiB: its own pages, and its part of those that it shares.
func proportionalSize(pid int) (int, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "Pss:"); ok {
			return strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(value, "kB")))
		}
	}
	return 0, fmt.Errorf("%s has no Pss", file.Name())
}
