package container

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/limpet-run/limpet/guest/protocol"
)

// rehearsalSpec is the specification of an ordinary container whose program does not exist.
//
//go:embed rehearsal.json
var rehearsalSpec []byte

// missing is what is said of the program.
const missing = `executable file "/rehearsal" not found`

// rehearsalID is the id of the container of a rehearsal: a run of it comes to all that a start does but for the program. No other container
// can have it.
const rehearsalID = "~rehearsal"

// Rehearse starts an ordinary container that has no program. What this program and the kernel do for the first time takes longer than
// doing it again, and an emulator many times as long. It is for when there is nothing else to do: before a machine becomes a template,
// whose clones find what was set up; and in each machine that waits for its first container, since no emulator has what another one has
// translated.
func (s *Set) Rehearse(ctx context.Context) error {
	for request, terminal := range []bool{false, true} {
		if err := s.rehearse(ctx, uint64(request+1), terminal); err != nil {
			return fmt.Errorf("rehearse the start of a container: %w", err)
		}
	}
	return nil
}

func (s *Set) rehearse(ctx context.Context, request uint64, terminal bool) error {
	spec, err := edit(rehearsalSpec, map[string]func([]byte) ([]byte, error){
		"process": setter(map[string]any{"terminal": terminal}),
	})
	if err != nil {
		return err
	}
	rootfs := filepath.Join(s.Dir, rehearsalID, "rootfs")
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return err
	}
	c, err := s.claim(rehearsalID, rootfs)
	if err != nil {
		return err
	}
	defer s.forget(c)
	close(c.settled)
	if err := c.enter("rehearse", prepared, preparing); err != nil {
		return err
	}
	stdin, stdout, stderr := protocol.NewToken(), protocol.NewToken(), protocol.NewToken()
	streams := &protocol.Streams{Stdin: &stdin, Stdout: &stdout}
	if !terminal {
		streams.Stderr = &stderr
	}
	size := &protocol.Size{Cols: 80, Rows: 24}
	_, err = c.run(ctx, protocol.Run{
		RequestID: request, ContainerID: c.id, Spec: spec, Terminal: terminal, Streams: streams, Size: size,
	})
	if said, ok := errors.AsType[*protocol.Error](err); !ok || said.Code != protocol.CodeStartFailed ||
		!strings.Contains(said.Message, missing) {
		return fmt.Errorf("it did not miss its program: %w", err)
	}
	return nil
}
