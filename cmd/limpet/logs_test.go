package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestParseLogLine(t *testing.T) {
	for _, test := range []struct {
		text         string
		people, json string // empty: it is refused
	}{
		{`{"time":"2026-01-02T03:04:05.678Z","level":"INFO","msg":"a message","source":"agent","n":3,"command":"sh -c","id":"x","list":[1]}`,
			`03:04:05.678 INFO agent a message command="sh -c" id=x list=[1] n=3`, "="},
		{`{ "msg": "no time" }`, "00:00:00.000   no time", `{"msg":"no time"}`},
		{"{\"msg\":\"\u009b2J\",\"level\":7}", "00:00:00.000   ?2J", `{"msg":"\u009b2J","level":7}`},
		{`"text"`, "", ""},
		{`{`, "", ""},
	} {
		line, err := parseLogLine([]byte(test.text))
		if (err == nil) != (test.json != "") {
			t.Errorf("%s: %v", test.text, err)
		}
		if err != nil {
			continue
		}
		if test.json == "=" {
			test.json = test.text
		}
		for asJSON, want := range map[bool]string{false: test.people, true: test.json} {
			var text strings.Builder
			local := line
			local.at = line.at.UTC()
			if err := printLogLine(&text, local, asJSON); err != nil {
				t.Error(err)
			}
			got := strings.TrimSuffix(text.String(), "\n")
			if !asJSON { // the hour is this machine's
				got, want = got[strings.Index(got, ":"):], want[strings.Index(want, ":"):]
			}
			if !strings.HasSuffix(got, want[strings.Index(want, ".")+1:]) {
				t.Errorf("%s: got %s, want %s", test.text, got, want)
			}
		}
	}
}

// TestKeptLinesWithoutEnd has a guest that is never silent.
func TestKeptLinesWithoutEnd(t *testing.T) {
	const times = 10
	lines := make(chan logLine)
	go func() {
		defer close(lines)
		line := logLine{text: strings.Repeat("x", 64<<10)}
		for range times * maxKept / len(line.text) {
			select {
			case lines <- line:
			case <-t.Context().Done():
				return
			}
		}
	}()
	kept, err := keptLines(lines, time.Minute, time.Minute)
	if want := maxKept / (64 << 10); len(kept) != want || err != nil {
		t.Errorf("%d lines, %v: want %d", len(kept), err, want)
	}
}

func TestKeptLines(t *testing.T) {
	line := func(seconds int64) logLine { return logLine{at: time.Unix(seconds, 0)} }
	broken := errors.New("broken")
	for _, test := range []struct {
		name  string
		lines []logLine
		end   bool
		want  []int64
		err   error
	}{
		{"nothing", nil, false, nil, nil},
		{"in order of time", []logLine{line(3), line(1), line(2)}, false, []int64{1, 2, 3}, nil},
		{"an end", []logLine{line(1)}, true, []int64{1}, nil},
		{"broken", []logLine{line(1), {err: broken}}, false, nil, broken},
	} {
		lines := make(chan logLine, len(test.lines))
		for _, line := range test.lines {
			lines <- line
		}
		if test.end {
			close(lines)
		}
		kept, err := keptLines(lines, 10*time.Millisecond, time.Millisecond)
		var got []int64
		for _, line := range kept {
			got = append(got, line.at.Unix())
		}
		if len(got) != len(test.want) || !errors.Is(err, test.err) {
			t.Errorf("%s: got %v, %v", test.name, got, err)
			continue
		}
		for i := range got {
			if got[i] != test.want[i] {
				t.Errorf("%s: got %v", test.name, got)
			}
		}
	}
}
