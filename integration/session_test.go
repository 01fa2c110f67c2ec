package integration

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/integration/harness"
)

// stateDir is the directory of the container's sandbox, where its doors are.
func (c container) stateDir() string {
	c.Helper()
	link := filepath.Join(daemon.Dir, "state", "io.containerd.runtime.v2.task", daemon.Namespace, c.id, "limpet-state")
	dir, err := filepath.EvalSymlinks(link)
	c.must(err)
	return dir
}

// TestFurtherSession has a program that shares no code with limpet speak with the agent beside the shim: testdata/session.py.
func TestFurtherSession(t *testing.T) {
	s := limpetOnly(t)
	c := s.sleeper()
	result := harness.Run(exec.CommandContext(s.ctx, "python3", "testdata/session.py", c.stateDir(), c.id))
	s.must(result.Err())
	type message map[string]any
	var got struct {
		Refused, Hello, Ping, Stats, Pids, Denied, Unknown, Cancel, Cancelled, Exec, Exit, Waited, Ack, Signal, Killed message

		BadID   message `json:"bad_id"`
		Trace   string
		Traced  []message
		Sources []string
	}
	s.must(json.Unmarshal([]byte(result.Stdout), &got))
	for name, test := range map[string]struct {
		got  message
		key  string
		want any
	}{
		"wrong token":              {got.Refused, "code", "UNAUTHENTICATED"},
		"hello":                    {got.Hello, "protocol_version", 1.0},
		"ping":                     {got.Ping, "data", 7.0},
		"stats":                    {got.Stats, "type", "stats_report"},
		"pids":                     {got.Pids, "type", "pid_list"},
		"what changes the sandbox": {got.Denied, "code", "PERMISSION_DENIED"},
		"wait for nobody":          {got.Unknown, "code", "NOT_FOUND"},
		"cancel":                   {got.Cancel, "type", "ok"},
		"what was cancelled":       {got.Cancelled, "code", "CANCELLED"},
		"another's request id":     {got.BadID, "code", "INVALID_REQUEST"},
		"exec":                     {got.Exec, "type", "started"},
		"exit, told again":         {got.Exit, "code", 7.0},
		"wait for what has ended":  {got.Waited, "code", 7.0},
		"ack":                      {got.Ack, "type", "ok"},
		"signal":                   {got.Signal, "type", "ok"},
		"killed":                   {got.Killed, "code", 137.0},
	} {
		if test.got[test.key] != test.want {
			t.Errorf("%s: %v, want %s %v", name, test.got, test.key, test.want)
		}
	}
	if len(got.Traced) != 1 || got.Traced[0]["command"] != "exec" {
		t.Errorf("lines of the log with the trace id %s: %v", got.Trace, got.Traced)
	}
	if !slices.Equal(got.Sources, []string{"agent", "kernel"}) {
		t.Errorf("the log is of %v", got.Sources)
	}
	s.must(c.exec(nil, "true").Err()) // the shim's session goes on
}

// TestTraceIDs follows one call of ctr by its id from the shim's log to the guest's.
func TestTraceIDs(t *testing.T) {
	s := limpetOnly(t)
	c := s.sleeper()
	s.must(c.exec(nil, "true").Err())

	call := regexp.MustCompile(`call=/containerd.task.v3.Task/Start .*trace_id=([0-9a-f]{32})`)
	ids := map[string]bool{}
	for line := range strings.Lines(daemon.Log()) {
		if found := call.FindStringSubmatch(line); found != nil && strings.Contains(line, c.id) {
			ids[found[1]] = true
		}
	}
	if len(ids) != 2 { // of the container, and of the exec
		t.Fatalf("the shim's log has calls of Start with the ids %v", ids)
	}
	logs, err := client.OpenLogs(s.ctx, c.stateDir())
	s.must(err)
	defer logs.Close()
	var commands []string
	for len(commands) < len(ids) {
		text, err := logs.Next()
		s.must(err)
		var line struct {
			TraceID string `json:"trace_id"`
			Command string
		}
		s.must(json.Unmarshal(text, &line))
		if ids[line.TraceID] && (line.Command == "run" || line.Command == "exec") {
			commands = append(commands, line.Command)
		}
	}
	if want := []string{"run", "exec"}; !slices.Equal(commands, want) {
		t.Errorf("the guest's log has the ids with %v, want %v", commands, want)
	}
}

// TestOperatorsSession asks an agent for statistics as the limpet command does.
func TestOperatorsSession(t *testing.T) {
	s := limpetOnly(t)
	c := s.sleeper()
	session, err := client.Open(s.ctx, c.stateDir(), nil, slog.New(slog.NewTextHandler(t.Output(), nil)))
	s.must(err)
	answer, err := session.Call(s.ctx, protocol.Stats{ContainerID: c.id})
	if stats, ok := answer.(protocol.StatsReport); err != nil || !ok || stats.MemoryCurrent == 0 {
		t.Errorf("stats %+v, %v", answer, err)
	}
	s.must(session.Close())
	if _, err := client.Open(s.ctx, t.TempDir(), nil, slog.Default()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of no sandbox: %v", err)
	}
}
