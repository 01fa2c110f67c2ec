package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/internal/printable"
	"github.com/limpet-run/limpet/runtime"
)

// statsTimeout is how long an agent may take to tell what its containers use.
const statsTimeout = 10 * time.Second

func statsCommand() *cli.Command {
	return &cli.Command{
		Name:      "stats",
		Usage:     "show what sandboxes cost on this host, and what their containers use",
		ArgsUsage: "[SANDBOX...]",
		Description: "A sandbox's memory is what its processes on this host have for themselves, with their part of what they share\n" +
			"(PSS), and what its machine has taken without having used it yet, beside what the machine has; a container's\n" +
			"is what the guest says of it, beside its limit. What the machine no longer uses the host has back seconds later.\n" +
			"CPU is of one processor, over --interval. Without SANDBOX: all that run.\n" + referenceUsage,
		Flags: sandboxFlags(
			&cli.DurationFlag{Name: "interval", Value: time.Second, Usage: "`TIME` to measure over"},
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "measure again and again, until Ctrl-C"},
			jsonFlag()),
		OnUsageError: onUsageError,
		Action:       showStats,
	}
}

// sandboxStats is what a sandbox costs.
type sandboxStats struct {
	Namespace  string           `json:"namespace"`
	ID         string           `json:"id"`
	CPUPercent float64          `json:"cpu_percent"`           // of one processor, on the host
	Memory     uint64           `json:"memory_bytes"`          // on the host: PSS of all processes, and Unmapped
	Unmapped   uint64           `json:"unmapped_memory_bytes"` // of the machine's memory: copied from a template, and not used yet
	MemorySize uint64           `json:"memory_size_bytes"`
	Processes  []processStats   `json:"processes"`
	Containers []containerStats `json:"containers"`
	Error      string           `json:"error,omitempty"` // why the guest does not tell of its containers
}

// processStats is what a process on the host costs.
type processStats struct {
	Name   string `json:"name"`
	PID    int    `json:"pid"`
	Memory uint64 `json:"memory_bytes"` // PSS
	CPU    uint64 `json:"cpu_nanoseconds"`
}

// containerStats is what the guest says that a container uses.
type containerStats struct {
	ID         string  `json:"id"`
	Name       string  `json:"name,omitempty"`
	CPUPercent float64 `json:"cpu_percent"`
	CPU        uint64  `json:"cpu_nanoseconds"`
	Memory     uint64  `json:"memory_bytes"`
	Limit      *uint64 `json:"memory_limit_bytes"` // nil: none
	Processes  uint64  `json:"processes"`
}

// meteredSandbox is a sandbox with a session to ask its agent.
type meteredSandbox struct {
	runtime.SandboxInfo
	session *client.Session
	err     error // why there is none
}

func showStats(c *cli.Context) error {
	if c.Duration("interval") <= 0 {
		return usageError{fmt.Errorf("--interval %s: want a time such as 2s", c.Duration("interval"))}
	}
	chosen, err := chosenSandboxes(c)
	if err != nil {
		return err
	}
	metered := make([]meteredSandbox, len(chosen))
	var group errgroup.Group
	for i, sandbox := range chosen {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(c.Context, statsTimeout)
			defer cancel()
			session, err := client.Open(ctx, sandbox.Dir, nil, slog.New(slog.DiscardHandler))
			metered[i] = meteredSandbox{sandbox, session, err}
			return nil
		})
	}
	_ = group.Wait()
	defer func() {
		for _, sandbox := range metered {
			if sandbox.session != nil {
				sandbox.session.Close()
			}
		}
	}()
	before, began := measure(c.Context, metered), time.Now()
	for {
		select {
		case <-time.After(c.Duration("interval")):
		case <-c.Context.Done(): // Ctrl-C
			return nil
		}
		after, ended := measure(c.Context, metered), time.Now()
		if c.Context.Err() != nil { // Ctrl-C, and what was asked has no answer
			return nil
		}
		list := rates(before, after, ended.Sub(began))
		if err := printStats(c.App.Writer, list, c.Bool("json"), c.Bool("watch")); err != nil {
			return err
		}
		if !c.Bool("watch") {
			return nil
		}
		before, began = after, ended
	}
}

// chosenSandboxes are those of the command line, or all that run.
func chosenSandboxes(c *cli.Context) ([]runtime.SandboxInfo, error) {
	var chosen []runtime.SandboxInfo
	for _, reference := range c.Args().Slice() {
		found, err := findSandbox(c, reference)
		if err != nil {
			return nil, err
		}
		if _, err := doorPath(found, client.SessionDoor); err != nil {
			return nil, err
		}
		chosen = append(chosen, found.SandboxInfo)
	}
	if c.Args().Present() {
		return chosen, nil
	}
	list, err := sandboxes(c)
	for _, sandbox := range list {
		if sandbox.State == runtime.SandboxRunning {
			chosen = append(chosen, sandbox)
		}
	}
	return chosen, err
}

// measure asks all sandboxes at once.
func measure(ctx context.Context, metered []meteredSandbox) []sandboxStats {
	list := make([]sandboxStats, len(metered))
	var group errgroup.Group
	for i, sandbox := range metered {
		group.Go(func() error {
			list[i] = sandbox.measure(ctx)
			return nil
		})
	}
	_ = group.Wait()
	return list
}

func (s meteredSandbox) measure(ctx context.Context) sandboxStats {
	stats := sandboxStats{
		Namespace: s.Namespace, ID: s.ID, MemorySize: uint64(s.MemoryMiB) << 20, Processes: []processStats{}, Containers: []containerStats{},
	}
	var taken, mapped uint64
	for _, process := range append([]runtime.HostProcess{s.Holder}, s.Machine...) {
		usage, err := process.Usage()
		if err != nil {
			continue // it has just ended
		}
		stats.Processes = append(stats.Processes, processStats{process.Name, process.PID, usage.Memory, uint64(usage.CPU)})
		stats.Memory += usage.Memory
		taken, mapped = max(taken, usage.Taken), mapped+usage.Mapped
	}
	stats.Unmapped = max(taken, mapped) - mapped
	stats.Memory += stats.Unmapped
	err := s.err
	for _, container := range s.Containers {
		if err != nil || container.PID == 0 {
			continue
		}
		var one containerStats
		if one, err = s.askStats(ctx, container); err == nil {
			stats.Containers = append(stats.Containers, one)
		}
	}
	if err != nil {
		stats.Error = printable.Line(err.Error())
	}
	return stats
}

func (s meteredSandbox) askStats(ctx context.Context, container runtime.ContainerInfo) (containerStats, error) {
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	answer, err := s.session.Call(ctx, protocol.Stats{ContainerID: container.ID})
	if err != nil {
		return containerStats{}, err
	}
	report, ok := answer.(protocol.StatsReport)
	if !ok {
		return containerStats{}, fmt.Errorf("the agent answers with a %T", answer)
	}
	return containerStats{
		ID: container.ID, Name: container.Name, CPU: report.CPUUsageNanos, Memory: report.MemoryCurrent, Limit: report.MemoryMax,
		Processes: report.PidsCurrent,
	}, nil
}

// rates fills in what was used between two measurements. What has begun meanwhile has used what it has.
func rates(before, after []sandboxStats, span time.Duration) []sandboxStats {
	percent := func(now, then uint64) float64 {
		if now < then { // another one of the same name, or a guest that lies
			return 0
		}
		return float64(now-then) / float64(span) * 100
	}
	for i := range after {
		then := map[string]uint64{}
		for _, process := range before[i].Processes {
			then[fmt.Sprintf("process %d", process.PID)] = process.CPU
		}
		for _, container := range before[i].Containers {
			then["container "+container.ID] = container.CPU
		}
		for _, process := range after[i].Processes {
			after[i].CPUPercent += percent(process.CPU, then[fmt.Sprintf("process %d", process.PID)])
		}
		for j, container := range after[i].Containers {
			after[i].Containers[j].CPUPercent = percent(container.CPU, then["container "+container.ID])
		}
	}
	return after
}

// clearScreen sets a terminal's cursor to its beginning and clears it.
const clearScreen = "\x1b[H\x1b[2J"

func printStats(w io.Writer, list []sandboxStats, asJSON, watch bool) error {
	if asJSON {
		return printJSON(w, list)
	}
	if watch && isTerminal(w) {
		fmt.Fprint(w, clearScreen)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAMESPACE\tSANDBOX\tCONTAINER\tCPU\tMEMORY\tOF\tPROCESSES")
	var errs []error
	for _, sandbox := range list {
		var parts []string
		for _, process := range sandbox.Processes {
			parts = append(parts, fmt.Sprintf("%s %s", process.Name, printBytes(process.Memory)))
		}
		if sandbox.Unmapped > 0 {
			parts = append(parts, "not mapped "+printBytes(sandbox.Unmapped))
		}
		fmt.Fprintf(table, "%s\t%s\t-\t%.1f%%\t%s\t%s\t%s\n", sandbox.Namespace, shortID(sandbox.ID), sandbox.CPUPercent,
			printBytes(sandbox.Memory), printBytes(sandbox.MemorySize), strings.Join(parts, ", "))
		for _, container := range sandbox.Containers {
			limit := "-"
			if container.Limit != nil {
				limit = printBytes(*container.Limit)
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%.1f%%\t%s\t%s\t%d\n", sandbox.Namespace, shortID(sandbox.ID), shortID(container.ID),
				container.CPUPercent, printBytes(container.Memory), limit, container.Processes)
		}
		if sandbox.Error != "" {
			errs = append(errs, fmt.Errorf("sandbox %s does not tell of all its containers: %s", sandbox.ID, sandbox.Error))
		}
	}
	return errors.Join(table.Flush(), errors.Join(errs...))
}
