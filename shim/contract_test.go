package shim

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// namedTest is how a document names a test: `package.TestName`, the package by its directory.
var namedTest = regexp.MustCompile("`([a-z0-9/-]+)\\.((?:Test|Fuzz)[A-Za-z0-9]+)`")

// TestContract looks that the documents name only tests that exist.
func TestContract(t *testing.T) {
	documents, err := filepath.Glob("../docs/*.md")
	if err != nil || len(documents) == 0 {
		t.Fatal(documents, err)
	}
	tests := map[string][]byte{} // of a package
	for _, document := range documents {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		names := namedTest.FindAllSubmatch(text, -1)
		if filepath.Base(document) == "contract.md" && len(names) == 0 {
			t.Errorf("%s names no test", document)
		}
		for _, name := range names {
			folder := string(name[1])
			if tests[folder] == nil {
				tests[folder] = sources(t, folder)
			}
			if !bytes.Contains(tests[folder], []byte("\nfunc "+string(name[2])+"(")) {
				t.Errorf("%s: there is no test %s.%s", document, name[1], name[2])
			}
		}
	}
}

// sources is the text of a package's tests.
func sources(t *testing.T, folder string) (text []byte) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, source...)
	}
	return text
}
