package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/runtime"
)

// stateOf makes a state directory with these records and a configuration that names it.
func stateOf(t *testing.T, records ...string) (config string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "limpet") // t.TempDir is too long for a state_dir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for i, record := range records {
		sandbox := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(sandbox, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sandbox, "state.json"), []byte(record), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config = filepath.Join(t.TempDir(), "limpet.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "state_dir = %q\n", dir), 0o600); err != nil {
		t.Fatal(err)
	}
	return config
}

const (
	web = `{"namespace": "default", "id": "web", "began": "2026-11-21T10:00:00Z", "parts": [
		{"name": "sandbox", "begin_ms": 0, "ms": 1234.5, "stages": [
			{"name": "state", "begin_ms": 0.1, "ms": 0.4}, {"name": "qemu", "begin_ms": 0.6, "ms": 80}]},
		{"name": "create", "begin_ms": 1240, "ms": 90.1, "stages": []}]}`
	otherWeb = `{"namespace": "test", "id": "web", "began": "2026-11-21T10:00:01Z"}`
)

func TestTrace(t *testing.T) {
	for _, test := range []struct {
		name           string
		records        []string
		args           []string
		code           int
		stdout, stderr []string // lines, or parts of them; with spaces for any white space
	}{
		{"none", nil, nil, 0, []string{"NAMESPACE SANDBOX BEGAN SANDBOX MS CREATE MS START MS EXEC MS"}, nil},
		{"list", []string{otherWeb, web}, nil, 0, []string{" 1234.5 90.1 - -", "test web ", " - - - -"}, nil},
		{"list of a namespace", []string{otherWeb, web}, []string{"--namespace", "default"}, 0, []string{"default web"}, nil},
		{"one", []string{web}, []string{"web"}, 0, []string{
			"sandbox web of namespace default, begun ", "FROM MS TOOK MS STAGE", "0.0 1234.5 sandbox", "0.1 0.4 state", "1240.0 90.1 create",
		}, nil},
		{"one of two", []string{otherWeb, web}, []string{"web"}, exitFailure, nil, []string{"default, test", "--namespace"}},
		{"chosen", []string{otherWeb, web}, []string{"--namespace", "default", "web"}, 0, []string{"web of namespace default"}, nil},
		{"unknown", []string{web}, []string{"db"}, exitFailure, nil, []string{"sandbox db", "limpet trace", "--config"}},
		{"in no such namespace", []string{web}, []string{"--namespace", "k8s.io", "web"}, exitFailure, nil, []string{"sandbox web"}},
		{"beside a broken one", []string{web, "{"}, []string{"web"}, 0, []string{"sandbox web"}, nil},
		{"list with a broken one", []string{web, "{"}, nil, exitFailure, []string{"default web"}, []string{"read sandbox state"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			args := append([]string{"limpet", "trace", "--config", stateOf(t, test.records...)}, test.args...)
			if code := run(t.Context(), args, &stdout, &stderr); code != test.code {
				t.Errorf("exit status %d", code)
			}
			for _, stream := range []struct {
				text string
				want []string
			}{{stdout.String(), test.stdout}, {stderr.String(), test.stderr}} {
				got := strings.Join(strings.Fields(stream.text), " ")
				for _, want := range stream.want {
					if !strings.Contains(got, want) {
						t.Errorf("%q lacks %q", stream.text, want)
					}
				}
				if len(stream.want) == 0 && got != "" {
					t.Errorf("got %q", stream.text)
				}
			}
		})
	}
}

func TestTraceJSON(t *testing.T) {
	print := func(into any, config string, args ...string) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		args = append([]string{"limpet", "trace", "--json", "--config", config}, args...)
		if code := run(t.Context(), args, &stdout, &stderr); code != 0 || stderr.Len() > 0 {
			t.Errorf("exit status %d: %s", code, stderr.String())
		}
		if err := json.Unmarshal(stdout.Bytes(), into); err != nil {
			t.Fatalf("%v: %s", err, stdout.String())
		}
	}
	var none, list []runtime.Trace
	var one runtime.Trace
	print(&none, stateOf(t))
	print(&list, stateOf(t, web, otherWeb))
	print(&one, stateOf(t, web), "web")
	if none == nil || len(none) != 0 {
		t.Errorf("none: %+v", none)
	}
	if len(list) != 2 || len(list[0].Parts) != 2 || list[1].Namespace != "test" {
		t.Errorf("list: %+v", list)
	}
	if one.ID != "web" || len(one.Parts) != 2 || len(one.Parts[0].Stages) != 2 || one.Parts[0].Stages[1].MS != 80 {
		t.Errorf("one: %+v", one)
	}
}
