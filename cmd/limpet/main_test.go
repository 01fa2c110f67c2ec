package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/doctor"
)

// TestRun has command lines that need nothing of the host.
func TestRun(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken.toml")
	if err := os.WriteFile(broken, []byte("memroy = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args           []string
		code           int
		stdout, stderr string // what is in there; nothing else may be where it is empty
	}{
		{nil, 0, "doctor", ""},
		{[]string{"--help"}, 0, "doctor", ""},
		{[]string{"config"}, 0, string(config.DefaultFile), ""},
		{[]string{"doctor", "--help"}, 0, "--json", ""},
		{[]string{"doctor", "--config", broken}, exitFailure, "FAILED  configuration", ""},
		{[]string{"treat"}, exitUsage, "", `"treat"`},
		{[]string{"--loud"}, exitUsage, "", "-loud"},
		{[]string{"doctor", "--loud"}, exitUsage, "", "-loud"},
		{[]string{"doctor", "who"}, exitUsage, "", `"who"`},
		{[]string{"config", "x"}, exitUsage, "", `"x"`},
		{[]string{"install", "--help"}, 0, "--dry-run", ""},
		{[]string{"install", "--dry-run", "--root", t.TempDir(), "--from", t.TempDir()}, exitFailure, "not checked", "make install DESTDIR="},
		{[]string{"install", "--dry-run", "--uninstall", "--root", t.TempDir()}, 0, "nothing to do", ""},
		{[]string{"install", "x"}, exitUsage, "", `"x"`},
		{[]string{"install", "--loud"}, exitUsage, "", "-loud"},
		{[]string{"trace", "--config", broken}, exitFailure, "", "memroy"},
		{[]string{"trace", "a", "b"}, exitUsage, "", `"b"`},
		{[]string{"trace", "--loud"}, exitUsage, "", "-loud"},
		{[]string{"sidecar"}, 0, "serve", ""},
		{[]string{"sidecar", "treat"}, exitUsage, "", `"treat"`},
		{[]string{"sidecar", "serve", "x"}, exitUsage, "", `"x"`},
		{[]string{"sidecar", "serve", "--loud"}, exitUsage, "", "-loud"},
		{[]string{"sidecar", "serve", "--tcp", "0.0.0.0:8000"}, exitFailure, "", "--tcp-exposed"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), append([]string{"limpet"}, test.args...), &stdout, &stderr)
			if code != test.code {
				t.Errorf("exit status %d", code)
			}
			for _, stream := range []struct{ got, want string }{{stdout.String(), test.stdout}, {stderr.String(), test.stderr}} {
				if !strings.Contains(stream.got, stream.want) || stream.want == "" && stream.got != "" {
					t.Errorf("got %q, want %q", stream.got, stream.want)
				}
			}
		})
	}
}

func TestDoctorJSON(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.toml")
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"limpet", "doctor", "--json", "--config", missing}, &stdout, &stderr); code != exitFailure {
		t.Errorf("exit status %d", code)
	}
	var report struct {
		Healthy  *bool
		Findings []doctor.Finding
	}
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil || stderr.Len() > 0 {
		t.Fatalf("%v: %s%s", err, stdout.Bytes(), stderr.Bytes())
	}
	if report.Healthy == nil || *report.Healthy || len(report.Findings) != 1 {
		t.Fatalf("got %+v", report)
	}
	if finding := report.Findings[0]; finding.OK || !strings.Contains(finding.Detail, missing) || finding.Remedy == "" {
		t.Errorf("got %+v", finding)
	}
}

func TestExitCode(t *testing.T) {
	usage := usageError{errors.New("unknown flag")}
	for _, test := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errFailed, exitFailure},
		{errors.New("no space"), exitFailure},
		{usage, exitUsage},
		{fmt.Errorf("doctor: %w", usage), exitUsage},
	} {
		if got := exitCode(test.err); got != test.want {
			t.Errorf("%v: %d, want %d", test.err, got, test.want)
		}
	}
}

func TestPrintFinding(t *testing.T) {
	for _, test := range []struct {
		check hypervisor.Check
		want  string
	}{
		{hypervisor.Check{Name: "kernel", OK: true, Detail: "/k"}, "ok      kernel         /k\n"},
		{hypervisor.Check{Name: "kernel", Detail: "none", Remedy: "make it"},
			"FAILED  kernel         none\n                       make it\n"},
	} {
		var text strings.Builder
		if printFinding(&text, doctor.Finding{Check: test.check}); text.String() != test.want {
			t.Errorf("got %q, want %q", text.String(), test.want)
		}
	}
}

func TestPrintJSON(t *testing.T) {
	var text strings.Builder
	if err := printJSON(&text, []string{"\x1b\n", "\u009b2J", "\x7f\u202e", "ü"}); err != nil {
		t.Fatal(err)
	}
	if want := "[\n  \"\\u001b\\n\",\n  \"\\u009b2J\",\n  \"\\u007f\\u202e\",\n  \"ü\"\n]\n"; text.String() != want {
		t.Errorf("got %q, want %q", text.String(), want)
	}
}

// TestErrorText has errors with the guest's word in them: it may not speak to the terminal.
func TestErrorText(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{errFailed, ""},
		{errors.New("one\n\ttwo ü"), "one\n\ttwo ü"},
		{fmt.Errorf("guest: %w", &protocol.Error{Message: "\x1b]52;c;eA==\a\r\u009b2J\u202e\xff"}), "guest: ?]52;c;eA==???2J??"},
	} {
		if got := errorText(test.err); strings.ReplaceAll(got, "\ufffd", "?") != test.want {
			t.Errorf("%v: got %q, want %q", test.err, got, test.want)
		}
	}
}
