package main

import (
	"strings"
	"testing"
	"time"
)

func TestRates(t *testing.T) {
	before := []sandboxStats{{
		Processes:  []processStats{{PID: 1, CPU: 1e9}, {PID: 2, CPU: 5e9}, {PID: 3, CPU: 7e9}},
		Containers: []containerStats{{ID: "a", CPU: 1e9}, {ID: "b", CPU: 9e9}},
	}}
	after := []sandboxStats{{
		Processes:  []processStats{{PID: 1, CPU: 2e9}, {PID: 2, CPU: 5e9}, {PID: 4, CPU: 5e8}},
		Containers: []containerStats{{ID: "a", CPU: 3e9}, {ID: "b", CPU: 1}, {ID: "c", CPU: 1e9}},
	}}
	got := rates(before, after, 2*time.Second)[0]
	if got.CPUPercent != 75 || got.Containers[0].CPUPercent != 100 || got.Containers[1].CPUPercent != 0 || got.Containers[2].CPUPercent != 50 {
		t.Errorf("got %+v", got)
	}
}

func TestPrintStats(t *testing.T) {
	limit := uint64(64 << 20)
	list := []sandboxStats{
		{
			Namespace: "default", ID: "web", CPUPercent: 12.34, Memory: 211 << 20, Unmapped: 11 << 20, MemorySize: 256 << 20,
			Processes: []processStats{{Name: "shim", Memory: 20 << 20}, {Name: "qemu", Memory: 180 << 20}},
			Containers: []containerStats{
				{ID: "web", CPUPercent: 5, Memory: 3 << 20, Processes: 2}, {ID: "job", Memory: 1 << 20, Limit: &limit, Processes: 1},
			},
		},
		{Namespace: "default", ID: "odd", Error: "no door"},
	}
	var text strings.Builder
	err := printStats(&text, list, false, true)
	want := []string{
		"NAMESPACE SANDBOX CONTAINER CPU MEMORY OF PROCESSES",
		"default web - 12.3% 211MiB 256MiB shim 20MiB, qemu 180MiB, not mapped 11MiB",
		"default web web 5.0% 3MiB - 2",
		"default web job 0.0% 1MiB 64MiB 1",
		"default odd - 0.0% 0B 0B",
	}
	lines := strings.Split(strings.TrimSpace(text.String()), "\n")
	for i := range lines {
		lines[i] = strings.Join(strings.Fields(lines[i]), " ")
	}
	if got := strings.Join(lines, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s", got)
	}
	if err == nil || !strings.Contains(err.Error(), "odd") || !strings.Contains(err.Error(), "no door") {
		t.Errorf("got %v", err)
	}
}

func TestStatsRefused(t *testing.T) {
	config := stateOf(t, web)
	limpet(t, "stats", "--config", config, "web").expect(t, outcome{exitFailure, nil, []string{"orphaned", "limpet rm web"}})
	limpet(t, "stats", "--config", config, "--interval", "0s").expect(t, outcome{exitUsage, nil, []string{"--interval"}})
	limpet(t, "stats", "--config", config, "--interval", "1ms").expect(t, outcome{0, []string{"NAMESPACE SANDBOX"}, nil})
}
