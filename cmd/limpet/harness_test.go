package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// programVariable makes this test's program limpet itself.
const programVariable = "LIMPET_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(programVariable) != "" {
		main()
	}
	os.Exit(m.Run())
}

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

// outcome is what a command line comes to.
type outcome struct {
	code           int
	stdout, stderr []string // lines, or parts of them, with one space for any white space; none: nothing is written
}

// result is what a command line came to.
type result struct {
	code           int
	stdout, stderr string
}

// limpet runs a command line.
func limpet(t *testing.T, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), append([]string{"limpet"}, args...), &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

func (r result) expect(t *testing.T, want outcome) {
	t.Helper()
	if r.code != want.code {
		t.Errorf("exit status %d, want %d: %s", r.code, want.code, r.stderr)
	}
	for _, stream := range []struct {
		text string
		want []string
	}{{r.stdout, want.stdout}, {r.stderr, want.stderr}} {
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
}

// decode reads what was written as JSON, and wants it to have gone well.
func (r result) decode(t *testing.T, into any) {
	t.Helper()
	if r.code != 0 || r.stderr != "" {
		t.Errorf("exit status %d: %s", r.code, r.stderr)
	}
	if err := json.Unmarshal([]byte(r.stdout), into); err != nil {
		t.Fatalf("%v: %s", err, r.stdout)
	}
}
