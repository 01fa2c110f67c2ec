package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
)

// series is the values of one side of a row, in the order they were measured.
type series []float64

func (s series) median() float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// percentile is the value that so many percent of the series do not exceed.
func (s series) percentile(percent int) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[(len(sorted)*percent+99)/100-1]
}

// row is one line of the report: limpet and what it is compared with.
type row struct {
	Name          string
	Unit          string
	Limpet        series
	Reference     series // empty: compared with nothing
	ReferenceName string
	Aim           string // of the ratio, or as it says, for people; empty: none
}

// ratio is limpet's median in the reference's.
func (r row) ratio() float64 {
	if reference := r.Reference.median(); reference != 0 {
		return r.Limpet.median() / reference
	}
	return 0
}

type report struct{ Rows []row }

func (r report) print(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "medians\tof\tlimpet\treference\t\tratio\taim\t unit")
	for _, row := range r.Rows {
		reference, ratio := "", ""
		if len(row.Reference) > 0 {
			reference, ratio = number(row.Reference.median()), fmt.Sprintf("%.2f", row.ratio())
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t %s\n",
			row.Name, len(row.Limpet), number(row.Limpet.median()), reference, row.ReferenceName, ratio, row.Aim, row.Unit)
	}
	return table.Flush()
}

// number writes three significant digits, or all before the point.
func number(value float64) string {
	switch {
	case value >= 100:
		return fmt.Sprintf("%.0f", value)
	case value >= 10:
		return fmt.Sprintf("%.1f", value)
	}
	return fmt.Sprintf("%.2f", value)
}

// writeJSON writes the report with all values measured.
func (r report) writeJSON(path string) error {
	type side struct {
		Name   string  `json:"name"`
		Median float64 `json:"median"`
		Values series  `json:"values"`
	}
	type line struct {
		Name      string  `json:"name"`
		Unit      string  `json:"unit"`
		Limpet    side    `json:"limpet"`
		Reference *side   `json:"reference,omitempty"`
		Ratio     float64 `json:"ratio,omitempty"`
		Aim       string  `json:"aim,omitempty"`
	}
	file := struct {
		Rows []line `json:"rows"`
	}{Rows: []line{}}
	for _, row := range r.Rows {
		line := line{Name: row.Name, Unit: row.Unit, Limpet: side{"limpet", row.Limpet.median(), row.Limpet}, Aim: row.Aim}
		if len(row.Reference) > 0 {
			line.Reference = &side{row.ReferenceName, row.Reference.median(), row.Reference}
			line.Ratio = row.ratio()
		}
		file.Rows = append(file.Rows, line)
	}
	text, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
