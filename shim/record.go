package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// serverRecordName is the file in a sandbox's bundle that tells `delete` which server to end.
	serverRecordName = "limpet-server.json"
	// exitRecordName is the file in a container's bundle that tells `delete` how the init process ended, should the server be gone by then.
	exitRecordName = "limpet-exit.json"
)

// serverRecord identifies the server of a sandbox.
type serverRecord struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // field 22 of /proc/PID/stat; pid and start time together are never reused
	Socket    string `json:"socket"`     // path
}

// exitRecord is the end of an init process.
type exitRecord struct {
	PID  uint32    `json:"pid"` // the task's pid on the host
	Code uint32    `json:"code"`
	At   time.Time `json:"at"`
}

func writeServerRecord(bundle string, record serverRecord) error {
	return writeRecord(filepath.Join(bundle, serverRecordName), record)
}

func readServerRecord(bundle string) (record serverRecord, err error) {
	return record, readRecord(filepath.Join(bundle, serverRecordName), &record)
}

func writeExitRecord(bundle string, record exitRecord) error {
	return writeRecord(filepath.Join(bundle, exitRecordName), record)
}

func readExitRecord(bundle string) (record exitRecord, err error) {
	return record, readRecord(filepath.Join(bundle, exitRecordName), &record)
}

// writeRecord replaces a file in one step. It need not outlive a crash of the host: nothing that it speaks of does.
func writeRecord(path string, record any) error {
	data, err := json.Marshal(record)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".limpet-*")
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		os.Remove(file.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// readRecord returns an error of os.ErrNotExist if there is no such file.
func readRecord(path string, record any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, record); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// startTime returns when a process started, in clock ticks since boot.
func startTime(pid int) (uint64, error) {
	path := fmt.Sprintf("/proc/%d/stat", pid)
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	// The second field is the name in parentheses and may hold anything, parentheses too. Start time is field 22, the 20th after it.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("%s is too short", path)
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// killServer ends the server of a record and waits until it is gone. A server that is gone already is no error.
func killServer(ctx context.Context, record serverRecord) error {
	handle, err := unix.PidfdOpen(record.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open shim process %d: %w", record.PID, err)
	}
	defer unix.Close(handle)
	// Only now that the handle holds on to one process can it be asked whether it is the right one.
	if started, err := startTime(record.PID); err != nil || started != record.StartTime {
		return nil
	}
	if err := unix.PidfdSendSignal(handle, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill shim process %d: %w", record.PID, err)
	}
	return awaitExit(ctx, handle, record.PID)
}

// awaitExit waits until the process of a pidfd has exited.
func awaitExit(ctx context.Context, handle, pid int) error {
	for {
		timeout := -1
		if deadline, ok := ctx.Deadline(); ok {
			timeout = max(0, int(time.Until(deadline).Milliseconds()))
		}
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(handle), Events: unix.POLLIN}}, timeout)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("wait for shim process %d: %w", pid, err)
		case ready == 0:
			return fmt.Errorf("shim process %d did not end: %w", pid, context.DeadlineExceeded)
		}
		return nil
	}
}
