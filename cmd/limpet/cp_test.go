package main

import "testing"

func TestIntoDirectory(t *testing.T) {
	for _, test := range []struct {
		source, destination string
		isDirectory         bool
		want                string
	}{
		{"/a/b", "c", false, "c"},
		{"/a/b", "c/", false, "c/b"},
		{"/a/b", "c", true, "c/b"},
		{"/a/b/", "c", true, "c/b"},
		{"/a/b/.", "c", true, "c/b"},
		{"/a/b/..", "c", true, "c/a"},
	} {
		if got := (place{path: test.destination}).intoDirectory(test.source, test.isDirectory); got != test.want {
			t.Errorf("%s to %s: got %s, want %s", test.source, test.destination, got, test.want)
		}
	}
}
