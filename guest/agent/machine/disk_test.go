package machine

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFindDisk(t *testing.T) {
	dir := t.TempDir()
	device := func(name, page, number string) {
		for file, text := range map[string]string{serialPage: page, numberFile: number} {
			path := filepath.Join(dir, name, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if text == "" {
				continue
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	device("loop0", "", "7:0\n")
	device("sda", "\x00\x80\x00\x07disk-11", "8:0\n")
	device("sdb", "\x00\x80\x00\x08disk-1  ", "8:16\n")
	device("sdc", "\x00\x80", "8:32\n")
	device("sdd", "\x00\x80\x00\x06disk-4", "")
	device("sde", "\x00\x80\x00\x06disk-5", "no number")
	for _, test := range []struct {
		serial       string
		major, minor uint32
		found, fails bool
	}{
		{"disk-1", 8, 16, true, false},
		{"disk-11", 8, 0, true, false},
		{"disk-2", 0, 0, false, false},
		{"disk-4", 0, 0, false, false},
		{"disk-5", 0, 0, false, true},
	} {
		major, minor, found, err := findDisk(dir, test.serial)
		if major != test.major || minor != test.minor || found != test.found || (err != nil) != test.fails {
			t.Errorf("%s: got %d:%d, %t, %v", test.serial, major, minor, found, err)
		}
	}
	if _, _, found, err := findDisk(filepath.Join(dir, "none"), "disk-1"); found || err != nil {
		t.Errorf("without devices: %t, %v", found, err)
	}
}
