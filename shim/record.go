package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/limpet-run/limpet/internal/atomicfile"
	"github.com/limpet-run/limpet/runtime"
)

const (
	// serverRecordName is the file in a sandbox's bundle that tells `delete` which server to end.
	serverRecordName = "limpet-server.json"
	// optionsRecordName is the file in a sandbox's bundle with the runtime options that `start` was given: the sandbox service is not.
	optionsRecordName = "limpet-options.json"
	// taskRecordName is the file in a container's bundle that tells `delete` of the task, should the server be gone by then.
	taskRecordName = "limpet-task.json"
)

// serverRecord identifies the server of a sandbox.
type serverRecord struct {
	runtime.HostProcess
	Socket string `json:"socket"` // path
}

// taskRecord is what is left to say of a task.
type taskRecord struct {
	PID  uint32      `json:"pid"`            // the task's pid on the host
	Exit *exitRecord `json:"exit,omitempty"` // nil while it has not ended
}

// exitRecord is the end of an init process.
type exitRecord struct {
	Code uint32    `json:"code"`
	At   time.Time `json:"at"`
}

func writeServerRecord(bundle string, record serverRecord) error {
	return atomicfile.WriteJSON(filepath.Join(bundle, serverRecordName), record)
}

func readServerRecord(bundle string) (record serverRecord, err error) {
	return record, readRecord(filepath.Join(bundle, serverRecordName), &record)
}

// removeServerRecord hides the server from the verb `delete`.
func removeServerRecord(bundle string) error {
	if err := os.Remove(filepath.Join(bundle, serverRecordName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func writeOptionsRecord(bundle string, record RuntimeOptions) error {
	return atomicfile.WriteJSON(filepath.Join(bundle, optionsRecordName), record)
}

// readOptionsRecord returns no options if none were written.
func readOptionsRecord(bundle string) (record RuntimeOptions, err error) {
	err = readRecord(filepath.Join(bundle, optionsRecordName), &record)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return record, err
}

func writeTaskRecord(bundle string, record taskRecord) error {
	return atomicfile.WriteJSON(filepath.Join(bundle, taskRecordName), record)
}

func readTaskRecord(bundle string) (record taskRecord, err error) {
	return record, readRecord(filepath.Join(bundle, taskRecordName), &record)
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
