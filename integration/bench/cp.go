package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/limpet-run/limpet/integration/harness"
)

// copySize is how much a copy is of, in bytes.
const copySize = 1 << 30

// copies measures limpet cp of a large file, once each way, as it takes its time: with machine requests, and with -r as tar's stream. They
// are compared with tar into and out of the root file system of a container of runc's.
func (b *bench) copies() (_ []row, err error) {
	pair, err := b.pair()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.remove(pair)) }()
	dir, err := os.MkdirTemp(b.daemon.Dir, "cp")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file, back := filepath.Join(dir, "file"), filepath.Join(dir, "back")
	if err := writeRandom(file); err != nil {
		return nil, err
	}
	rootfs := filepath.Join(b.daemon.Dir, "state/io.containerd.runtime.v2.task", b.daemon.Namespace, pair[harness.Runc], "rootfs")
	inside := pair[harness.Limpet] + ":/root/file"
	var rows []row
	for _, copy := range []struct {
		name     string
		limpet   []string
		from, to string // of tar
	}{
		{name: "cp of 1 GiB into a container", limpet: []string{file, inside}, from: dir, to: filepath.Join(rootfs, "root")},
		{name: "cp of 1 GiB out of a container", limpet: []string{inside, back}, from: filepath.Join(rootfs, "root"), to: dir},
		{name: "cp -r of 1 GiB into a container", limpet: []string{"-r", file, inside}, from: dir, to: filepath.Join(rootfs, "root")},
		{name: "cp -r of 1 GiB out of a container", limpet: []string{"-r", inside, back}, from: filepath.Join(rootfs, "root"), to: dir},
	} {
		b.progress(copy.name)
		limpet, err := b.copyRate(b.daemon.Build.Path("bin/limpet"), append([]string{"cp", "--config", b.daemon.ConfigPath()}, copy.limpet...)...)
		if err != nil {
			return nil, err
		}
		tar, err := b.copyRate("sh", "-c", `tar -C "$0" -c file | tar -C "$1" -x`, copy.from, copy.to)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row{
			Name: copy.name, Unit: "MiB/s", Limpet: series{limpet}, Reference: series{tar}, ReferenceName: "tar, runc's rootfs",
		})
	}
	return rows, nil
}

// copyRate is how fast a command copies.
func (b *bench) copyRate(program string, args ...string) (float64, error) {
	began := time.Now()
	if err := harness.Run(exec.CommandContext(b.ctx, program, args...)).Err(); err != nil {
		return 0, err
	}
	return float64(copySize) / mebibyte / time.Since(began).Seconds(), nil
}

// writeRandom makes a file of copySize bytes of which no disk takes less than they are.
func writeRandom(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	block := make([]byte, mebibyte)
	for range copySize / mebibyte {
		_, _ = rand.Read(block) // never fails
		if _, err := file.Write(block); err != nil {
			return fmt.Errorf("make a file to copy: %w", err)
		}
	}
	return file.Close()
}
