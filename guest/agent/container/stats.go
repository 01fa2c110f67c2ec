package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/limpet-run/limpet/guest/protocol"
)

// Stats reads a container's resource use from its control group, which outlives its processes. What has no controller, or no group
// yet because the container has not been started, is 0.
func (s *Set) Stats(m protocol.Stats) (protocol.StatsReport, error) {
	c, err := s.container(m.ContainerID)
	if err != nil {
		return protocol.StatsReport{}, fmt.Errorf("stats: %w", err)
	}
	report, err := c.cgroup.stats()
	if err != nil {
		return protocol.StatsReport{}, fmt.Errorf("stats of container %s: %w", c.id, err)
	}
	return report, nil
}

func (g cgroup) stats() (protocol.StatsReport, error) {
	var report protocol.StatsReport
	var errs []error
	read := func(name string, take func(content string) error) {
		content, err := os.ReadFile(g.file(name))
		if err == nil {
			err = take(strings.TrimSpace(string(content)))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	number := func(target *uint64) func(string) error {
		return func(content string) (err error) {
			*target, err = strconv.ParseUint(content, 10, 64)
			return err
		}
	}
	limit := func(target **uint64) func(string) error {
		return func(content string) error {
			if content == "max" {
				return nil
			}
			*target = new(uint64)
			return number(*target)(content)
		}
	}
	counters := func(target *[]protocol.Counter) func(string) error {
		return func(content string) (err error) {
			*target, err = parseCounters(strings.ReplaceAll(content, "\n", " "), " ")
			return err
		}
	}
	read("memory.current", number(&report.MemoryCurrent))
	read("memory.max", limit(&report.MemoryMax))
	read("memory.peak", number(&report.MemoryPeak))
	read("memory.stat", counters(&report.MemoryStat))
	read("memory.events", counters(&report.MemoryEvents))
	read("cpu.stat", counters(&report.CPUStat))
	read("pids.current", number(&report.PidsCurrent))
	read("pids.max", limit(&report.PidsMax))
	read("io.stat", func(content string) (err error) {
		report.IOStat, err = parseIOStat(content)
		return err
	})
	for _, counter := range report.CPUStat {
		if counter.Name == "usage_usec" {
			report.CPUUsageNanos = counter.Value * 1000
		}
	}
	return report, errors.Join(errs...)
}

// parseCounters reads names and their values, separated by spaces, and each from the other by the separator, which may be a space too.
func parseCounters(text, separator string) ([]protocol.Counter, error) {
	fields := strings.Fields(strings.ReplaceAll(text, separator, " "))
	if len(fields)%2 != 0 {
		return nil, fmt.Errorf("%d fields, want pairs", len(fields))
	}
	var counters []protocol.Counter
	for i := 0; i < len(fields); i += 2 {
		value, err := strconv.ParseUint(fields[i+1], 10, 64)
		if err != nil {
			return nil, err
		}
		counters = append(counters, protocol.Counter{Name: fields[i], Value: value})
	}
	return counters, nil
}

// parseIOStat reads lines of "major:minor name=value name=value".
func parseIOStat(text string) ([]protocol.IOStat, error) {
	var devices []protocol.IOStat
	for line := range strings.Lines(text) {
		number, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		major, minor, _ := strings.Cut(number, ":")
		var device protocol.IOStat
		var err error
		if device.Major, err = strconv.ParseUint(major, 10, 32); err != nil {
			return nil, err
		}
		if device.Minor, err = strconv.ParseUint(minor, 10, 32); err != nil {
			return nil, err
		}
		if device.Counters, err = parseCounters(rest, "="); err != nil {
			return nil, err
		}
		devices = append(devices, device)
	}
	return devices, nil
}
