package main

import "testing"

func TestPercentile(t *testing.T) {
	hundred := make(series, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	for _, test := range []struct {
		values  series
		percent int
		want    float64
	}{
		{nil, 50, 0},
		{series{7}, 50, 7},
		{series{7}, 99, 7},
		{series{3, 1, 2}, 50, 2},
		{series{4, 3, 1, 2}, 50, 2},
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 100, 100},
	} {
		if got := test.values.percentile(test.percent); got != test.want {
			t.Errorf("p%d of %v: got %v, want %v", test.percent, test.values, got, test.want)
		}
	}
}
