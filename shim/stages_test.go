package shim

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestStages(t *testing.T) {
	var before, after stages
	before.add("one")
	before.add("two")
	text, err := before.text()
	if err == nil {
		err = after.parse(text)
	}
	if err != nil || len(after) != 2 {
		t.Fatalf("got %v, %v of %s", after, err, text)
	}
	after.add("three")
	for i, name := range []string{"one", "two", "three"} {
		stage := after[i]
		if stage.Name != name || stage.Ended.Before(stage.Began) || i > 0 && !stage.Began.Equal(after[i-1].Ended) {
			t.Errorf("stage %d of %v", i, after)
		}
	}
}

// TestStartTellsItsStages finds on a server's command line what `start` has done, from the start of its process on.
func TestStartTellsItsStages(t *testing.T) {
	bundle := newBundle(t, "{}")
	began := time.Now()
	startShim(t, bundle, "c1", "")
	ended := time.Now()
	record, err := readServerRecord(bundle)
	if err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", record.PID))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(line), "\x00-stages\x00")
	text, _, _ := strings.Cut(rest, "\x00")
	var told stages
	if err := told.parse(text); err != nil {
		t.Fatalf("%v: %q", err, line)
	}
	if len(told) != 2 || told[0].Name != "exec start" || told[1].Name != "start" {
		t.Fatalf("got %v", told)
	}
	if told[0].Began.Before(began) || !told[0].Began.Before(told[0].Ended) || told[1].Ended.After(ended) {
		t.Errorf("%v does not lie between %v and %v", told, began, ended)
	}
}
