package shim

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestContract looks that docs/contract.md names only tests that exist.
func TestContract(t *testing.T) {
	text, err := os.ReadFile("../docs/contract.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("`([a-z/]+)\\.(Test[A-Za-z]+)`").FindAllSubmatch(text, -1)
	if len(names) == 0 {
		t.Fatal("it names none")
	}
	tests := map[string][]byte{} // of a package
	for _, name := range names {
		folder := string(name[1])
		if tests[folder] == nil {
			files, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				source, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				tests[folder] = append(tests[folder], source...)
			}
		}
		if !bytes.Contains(tests[folder], []byte("\nfunc "+string(name[2])+"(t *testing.T) {")) {
			t.Errorf("there is no test %s.%s", name[1], name[2])
		}
	}
}
