package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// timetable is the stages of a run in their order, with the time each took.
type timetable struct {
	stages []stage
}

type stage struct {
	name string
	took time.Duration
}

// read adds the stages of a file: a line each, milliseconds, a tab, the name.
func (t *timetable) read(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		number, name, _ := strings.Cut(line, "\t")
		milliseconds, err := strconv.Atoi(number)
		if err != nil || name == "" {
			return fmt.Errorf("%s: %q is no stage with its time", path, line)
		}
		t.stages = append(t.stages, stage{name, time.Duration(milliseconds) * time.Millisecond})
	}
	return nil
}

// begin tells of a stage and returns what ends it.
func (t *timetable) begin(out io.Writer, name string) (done func()) {
	fmt.Fprintln(out, "==", name)
	start := time.Now()
	return func() { t.stages = append(t.stages, stage{name, time.Since(start)}) }
}

// print writes the table with the sum below.
func (t *timetable) print(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	var sum time.Duration
	for _, s := range t.stages {
		fmt.Fprintf(table, "   %s\t%.1f s\t\n", s.name, s.took.Seconds())
		sum += s.took
	}
	fmt.Fprintf(table, "   all\t%.1f s\t\n", sum.Seconds())
	return table.Flush()
}
