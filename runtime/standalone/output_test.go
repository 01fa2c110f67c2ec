package standalone

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestFormatOutput(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	long := strings.Repeat("x", maxOutputLine)
	for written, want := range map[string][]string{
		"":             nil,
		"a\n":          {"F a"},
		"a":            {"P a"},
		"\n\nb c ":     {"F ", "F ", "P b c "},
		long + "\n":    {"P " + long, "F "},
		long + "yz\na": {"P " + long, "F yz", "P a"},
	} {
		var got []string
		joined := ""
		for line := range strings.Lines(string(formatOutput(at, "stdout", []byte(written)))) {
			stream, text, ok := parseOutput(line)
			if !ok || stream != "stdout" {
				t.Errorf("%.20q: line %.40q", written, line)
			}
			joined += text
			got = append(got, strings.TrimSuffix(strings.TrimPrefix(line, "2026-01-02T03:04:05.000000006Z stdout "), "\n"))
		}
		if strings.Join(got, "|") != strings.Join(want, "|") || joined != written {
			t.Errorf("%.20q: got %.60q", written, got)
		}
	}
	for _, line := range []string{"", "x", "time stdout X text\n", "time stdout F\n"} {
		if _, _, ok := parseOutput(line); ok {
			t.Errorf("%q is taken for a line", line)
		}
	}
}

// background makes a place of a run in the background.
func background(t *testing.T, stateDir, name string) *place {
	t.Helper()
	p, err := claimPlace(t.Context(), stateDir, Record{Request: Request{Name: name}, State: StateRunning, Detached: true, Began: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.release)
	return p
}

func TestCopyOutput(t *testing.T) {
	stateDir := t.TempDir()
	p := background(t, stateDir, "a")
	log, err := openOutputLog(filepath.Join(p.path, outputFile), 200)
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr := log.stream("stdout"), log.stream("stderr")
	write := func(text string) {
		t.Helper()
		if _, err := stdout.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	followed := make(chan string)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	ended := make(chan error, 1)
	go func() {
		ended <- CopyOutput(t.Context(), stateDir, "a", true, writer, &bytes.Buffer{})
		writer.Close()
	}()
	go func() {
		defer close(followed)
		buffer := make([]byte, 1)
		for {
			if n, err := reader.Read(buffer); n == 0 || err != nil {
				return
			}
			followed <- string(buffer)
		}
	}()
	expect := func(text string) {
		t.Helper()
		for _, want := range text {
			if got := <-followed; got != string(want) {
				t.Fatalf("got %q, want %q of %q", got, want, text)
			}
		}
	}
	for _, text := range []string{
		"one\n", "two", " three\n", "four\n", "five\n", "six\n", "seven\n", "eight\n", "nine\n", "ten\n", // some begin new files
	} {
		write(text)
		expect(text)
	}
	if _, err := stderr.Write([]byte("oh\n")); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if err := CopyOutput(t.Context(), stateDir, "a", false, &out, &errs); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(out.String(), "nine\nten\n") || strings.HasPrefix(out.String(), "one") || errs.String() != "oh\n" {
		t.Errorf("kept: %q and %q", out.String(), errs.String())
	}
	write("last")
	for _, stream := range []interface{ Close() error }{stdout, stderr, stdout} {
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := p.update(func(record *Record) { record.State, record.Exit = StateEnded, &Exit{} }); err != nil {
		t.Fatal(err)
	}
	expect("last")
	if text, more := <-followed; more {
		t.Errorf("then came %q", text)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestCopyOutputEnds(t *testing.T) {
	stateDir := t.TempDir()
	if err := CopyOutput(t.Context(), stateDir, "a", false, nil, nil); !errdefs.IsNotFound(err) {
		t.Errorf("of none: %v", err)
	}
	p := background(t, stateDir, "a")
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	cancel(stop)
	log, err := openOutputLog(filepath.Join(p.path, outputFile), maxOutputFile)
	if err != nil {
		t.Fatal(err)
	}
	defer log.stream("stdout").Close()
	if err := CopyOutput(ctx, stateDir, "a", true, nil, nil); !errors.Is(err, stop) {
		t.Errorf("cancelled: %v", err)
	}
	if err := p.update(func(record *Record) { record.Detached = false }); err != nil {
		t.Fatal(err)
	}
	if err := CopyOutput(t.Context(), stateDir, "a", false, nil, nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("of one in the foreground: %v", err)
	}
}
