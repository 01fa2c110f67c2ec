package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/internal/printable"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/standalone"
)

// What is kept of the guest's log comes at once, and nothing tells where it ends.
const (
	// logsPatience is how long its first line may take: it comes within a tenth of a second under emulation.
	logsPatience = 3 * time.Second
	// logsQuiet is the silence after which there is taken to be no more.
	logsQuiet = 300 * time.Millisecond
	// maxKept is how many bytes of lines are waited for: several times what agent and kernel keep. A hostile guest's have no end.
	maxKept = 4 << 20
)

func logsCommand() *cli.Command {
	return &cli.Command{
		Name:      "logs",
		Usage:     "print what a sandbox has logged",
		ArgsUsage: "SANDBOX",
		Description: "Of a run in the background, `limpet run --detach`, it is what its command wrote. Of any other sandbox, and with\n" +
			"--guest, it is the log of the agent and of the kernel in the guest, with the trace ids that the shim's log has for the same calls.\n" +
			"What containers of containerd's write goes where containerd says: ctr, nerdctl logs, kubectl logs.\n" + referenceUsage,
		Flags: sandboxFlags(
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with what comes, until Ctrl-C or the sandbox's end"},
			&cli.BoolFlag{Name: "guest", Usage: "the log of agent and kernel, also of a run"},
			&cli.BoolFlag{Name: "json", Usage: "print the lines of agent and kernel as JSON for programs"}),
		OnUsageError: onUsageError,
		Before:       arguments(1, 1),
		Action:       showLogs,
	}
}

func showLogs(c *cli.Context) error {
	inNamespace := !c.IsSet("namespace") || c.String("namespace") == standalone.Namespace
	if inNamespace && !c.Bool("guest") && !c.Bool("json") {
		if err := copyRunOutput(c); !errdefs.IsNotFound(err) {
			return err
		}
	}
	found, err := findSandbox(c, c.Args().First())
	if err != nil {
		return err
	}
	if _, err := doorPath(found, client.LogDoor); err != nil {
		return err
	}
	logs, err := client.OpenLogs(c.Context, found.Dir)
	if err != nil {
		return err
	}
	defer logs.Close()
	print := func(line logLine) error { return printLogLine(c.App.Writer, line, c.Bool("json")) }
	lines := followLogs(c.Context, logs)
	if c.Bool("follow") {
		for line := range lines {
			if err := errors.Join(line.err, print(line)); err != nil {
				return err
			}
		}
		return nil
	}
	kept, err := keptLines(lines, logsPatience, logsQuiet)
	if err != nil {
		return err
	}
	for _, line := range kept {
		if err := print(line); err != nil {
			return err
		}
	}
	return nil
}

// copyRunOutput prints what a run in the background has written, also one that has ended. ErrNotFound: there is no such run.
func copyRunOutput(c *cli.Context) error {
	configuration, err := config.Load(c.String("config"))
	if err != nil {
		return err
	}
	err = standalone.CopyOutput(c.Context, configuration.StateDir, c.Args().First(), c.Bool("follow"), c.App.Writer, c.App.ErrWriter)
	if c.Context.Err() != nil { // Ctrl-C
		return nil
	}
	return err
}

// logLine is a line of the guest's log, or why there are no more.
type logLine struct {
	at     time.Time
	text   string         // JSON, safe to print
	fields map[string]any // what it says
	err    error
}

// parseLogLine reads a line, of which the guest could make anything.
func parseLogLine(text []byte) (logLine, error) {
	line := logLine{}
	if err := json.Unmarshal(text, &line.fields); err != nil {
		return line, fmt.Errorf("a line of the guest's log is no JSON: %w", err)
	}
	safe, err := compactJSON(text)
	line.text = safe
	if at, ok := line.fields["time"].(string); ok {
		line.at, _ = time.Parse(time.RFC3339Nano, at) // else it is of no time
	}
	return line, err
}

// followLogs passes on the lines that come, until the log or the context ends.
func followLogs(ctx context.Context, logs *client.Logs) <-chan logLine {
	lines := make(chan logLine)
	stop := context.AfterFunc(ctx, func() { logs.Close() })
	go func() {
		defer close(lines)
		defer stop()
		for {
			text, err := logs.Next()
			var line logLine
			if err == nil {
				line, err = parseLogLine(text)
			}
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return
			}
			line.err = err
			select {
			case lines <- line:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return lines
}

// keptLines collects the lines that come at once, by their times: agent and kernel each have an order of their own.
func keptLines(lines <-chan logLine, patience, quiet time.Duration) ([]logLine, error) {
	var kept []logLine
	size := 0
	silence := time.NewTimer(patience)
	defer silence.Stop()
	for {
		select {
		case line, ok := <-lines:
			if ok && line.err != nil {
				return nil, line.err
			}
			if ok {
				kept = append(kept, line)
				silence.Reset(quiet)
				if size += len(line.text); size < maxKept {
					continue
				}
			}
		case <-silence.C:
		}
		slices.SortStableFunc(kept, func(a, b logLine) int { return a.at.Compare(b.at) })
		return kept, nil
	}
}

// printLogLine writes a line as JSON, or for people: time, level, source, message, and what else it says.
func printLogLine(w io.Writer, line logLine, asJSON bool) error {
	if asJSON {
		_, err := fmt.Fprintln(w, line.text)
		return err
	}
	words := []string{line.at.Local().Format("15:04:05.000")}
	for _, key := range []string{"level", "source", "msg"} {
		word, _ := line.fields[key].(string)
		words = append(words, printable.Line(word))
	}
	for _, key := range slices.Sorted(maps.Keys(line.fields)) {
		switch key {
		case "time", "level", "source", "msg":
			continue
		}
		value, isText := line.fields[key].(string)
		if !isText {
			encoded, _ := json.Marshal(line.fields[key]) // it was decoded from JSON
			value = string(encoded)
		}
		if isText && (value == "" || strings.ContainsAny(value, " =\"")) {
			value = strconv.Quote(value)
		}
		words = append(words, printable.Line(key+"="+value))
	}
	_, err := fmt.Fprintln(w, strings.Join(words, " "))
	return err
}
