package main

import (
	"strings"
	"testing"
	"time"

	"github.com/limpet-run/limpet/runtime"
)

func TestPrintSandboxes(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	pod := strings.Repeat("0123456789abcdef", 4)
	list := []runtime.SandboxInfo{
		{
			Namespace: "default", ID: "web", State: runtime.SandboxRunning, Holder: runtime.HostProcess{PID: 11}, VCPUs: 2, MemoryMiB: 1536,
			Began: now.Add(-2 * time.Minute),
			Containers: []runtime.ContainerInfo{
				{ID: "web", State: runtime.StateRunning, PID: 12, Image: "image\x1b[2J:1", Created: now.Add(-time.Minute)},
				{ID: "job", State: runtime.StateStopped, Exit: &runtime.ExitRecord{Code: 3}, Created: now.Add(-time.Second)},
				{ID: "new", Created: now},
			},
		},
		{
			Namespace: "k8s.io", ID: pod, Pod: true, Name: "default/pod", State: runtime.SandboxOrphaned, VCPUs: 1, MemoryMiB: 256,
			Began: now.Add(-time.Hour),
		},
	}
	want := []string{
		"NAMESPACE SANDBOX CONTAINER STATE PID VCPUS MEMORY AGE NAME IMAGE",
		"default web - running 11 2 1.5GiB 2 minutes - -",
		"default web web running 12 - - About a minute - image?[2J:1",
		"default web job stopped (3) - - - 1 second - -",
		"default web new creating - - - Less than a second - -",
		"k8s.io 0123456789abc - orphaned 0 1 256MiB About an hour default/pod -",
	}
	for _, whole := range []bool{false, true} {
		var text strings.Builder
		if err := printSandboxes(&text, list, now, whole); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(text.String()), "\n")
		for i, line := range lines {
			lines[i] = strings.Join(strings.Fields(line), " ")
		}
		wanted := strings.Join(want, "\n")
		if whole {
			wanted = strings.ReplaceAll(wanted, pod[:13], pod)
		}
		if got := strings.Join(lines, "\n"); got != wanted {
			t.Errorf("whole %t:\n%s", whole, got)
		}
	}
}

func TestPs(t *testing.T) {
	for _, test := range []struct {
		name    string
		records []string
		args    []string
		want    outcome
	}{
		{"none", nil, nil, outcome{0, []string{"NAMESPACE SANDBOX"}, nil}},
		{"none as JSON", nil, []string{"--json"}, outcome{0, []string{"[]"}, nil}},
		{"list", []string{otherWeb, web}, nil, outcome{0, []string{"default web - orphaned", "test web - orphaned"}, nil}},
		{"of a namespace", []string{otherWeb, web}, []string{"--namespace", "other"}, outcome{0, []string{"NAMESPACE"}, nil}},
		{"with a broken one", []string{web, "{"}, nil, outcome{exitFailure, []string{"default web"}, []string{"read sandbox state"}}},
		{"argument", nil, []string{"web"}, outcome{exitUsage, nil, []string{"ps", `"web"`}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			limpet(t, append([]string{"ps", "--config", stateOf(t, test.records...)}, test.args...)...).expect(t, test.want)
		})
	}
}

// TestFindSandbox has what all commands say that take a sandbox.
func TestFindSandbox(t *testing.T) {
	for _, test := range []struct {
		name    string
		records []string
		args    []string
		want    outcome
	}{
		{"one", []string{web}, []string{"web"}, outcome{0, []string{`"id": "web"`, `"state": "orphaned"`, `"doors": []`}, nil}},
		{"prefix", []string{web}, []string{"w"}, outcome{0, []string{`"id": "web"`}, nil}},
		{"one of two", []string{otherWeb, web}, []string{"web"}, outcome{exitFailure, nil, []string{"namespace default", "--namespace"}}},
		{"chosen", []string{otherWeb, web}, []string{"--namespace", "test", "web"}, outcome{0, []string{`"namespace": "test"`}, nil}},
		{"unknown", []string{web}, []string{"db"}, outcome{exitFailure, nil, []string{`"db"`, "limpet ps", "--config"}}},
		{"elsewhere", []string{web}, []string{"--namespace", "k8s.io", "web"}, outcome{exitFailure, nil, []string{`"web"`}}},
		{"nothing", []string{web}, nil, outcome{exitUsage, nil, []string{"limpet inspect SANDBOX"}}},
		{"more", []string{web}, []string{"web", "--json"}, outcome{exitUsage, nil, []string{"--json", "flags come first"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			limpet(t, append([]string{"inspect", "--config", stateOf(t, test.records...)}, test.args...)...).expect(t, test.want)
		})
	}
}
