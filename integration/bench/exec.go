package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/limpet-run/limpet/integration/harness"
)

// processType is how containerd names an OCI process.
const processType = "types.containerd.io/opencontainers/runtime-spec/1/Process"

// execsInARow measures many execs in one container of each runtime, by containerd's API: as ctr is no part of them, what is rare shows.
func (b *bench) execsInARow() (_ []row, err error) {
	pair, err := b.pair()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.remove(pair)) }()
	processes := map[string]*anypb.Any{}
	for runtime, id := range pair {
		if processes[runtime], err = b.execSpec(id, "true"); err != nil {
			return nil, err
		}
	}
	b.progress(fmt.Sprintf("%d execs in a row", b.options.execs))
	took := map[string]series{}
	for range b.options.execs {
		for runtime, id := range pair {
			began := time.Now()
			if err := b.execByAPI(id, processes[runtime]); err != nil {
				return nil, err
			}
			took[runtime] = append(took[runtime], milliseconds(began))
		}
	}
	var rows []row
	for _, percent := range []int{50, 99} {
		rows = append(rows, row{
			Name: fmt.Sprintf("p%d of %d execs in a row, by API", percent, b.options.execs), Unit: "ms",
			Limpet:    series{took[harness.Limpet].percentile(percent)},
			Reference: series{took[harness.Runc].percentile(percent)}, ReferenceName: "runc",
		})
	}
	return rows, nil
}

// execSpec is a process as clients make them: the container's own with other arguments.
func (b *bench) execSpec(id string, args ...string) (*anypb.Any, error) {
	result := b.daemon.Ctr(b.ctx, "container", "info", "--spec", id)
	if err := result.Err(); err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := json.Unmarshal([]byte(result.Stdout), &spec); err != nil {
		return nil, fmt.Errorf("specification of container %s: %w", id, err)
	}
	spec.Process.Args = args
	process, err := json.Marshal(spec.Process)
	return &anypb.Any{TypeUrl: processType, Value: process}, err
}

// execByAPI runs a process in a container from its making to its deletion.
func (b *bench) execByAPI(id string, spec *anypb.Any) error {
	b.count++
	execID, ctx := fmt.Sprintf("exec-%d", b.count), b.daemon.Context(b.ctx)
	if _, err := b.daemon.Tasks.Exec(ctx, &tasks.ExecProcessRequest{ContainerID: id, ExecID: execID, Spec: spec}); err != nil {
		return err
	}
	if _, err := b.daemon.Tasks.Start(ctx, &tasks.StartRequest{ContainerID: id, ExecID: execID}); err != nil {
		return err
	}
	exit, err := b.daemon.Tasks.Wait(ctx, &tasks.WaitRequest{ContainerID: id, ExecID: execID})
	if err != nil {
		return err
	}
	if exit.ExitStatus != 0 {
		return fmt.Errorf("true in %s exits with %d", id, exit.ExitStatus)
	}
	_, err = b.daemon.Tasks.DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: id, ExecID: execID})
	return err
}
