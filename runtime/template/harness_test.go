package template

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/hypervisor"
)

// otherVariable makes this test's program another process that uses the store in that directory.
const otherVariable = "LIMPET_TEST_TEMPLATES_OF"

func TestMain(m *testing.M) {
	if dir := os.Getenv(otherVariable); dir != "" {
		if err := beOther(Open(dir)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// beOther is what another process does: it counts clones, or asks for a template. Before a step that the test is to order it says what it
// is about to do, and does it when it is told a line.
func beOther(store *Store) error {
	told := bufio.NewReader(os.Stdin)
	say := func(step string) error {
		fmt.Println(step)
		_, err := told.ReadString('\n')
		return err
	}
	if err := say("ready"); err != nil {
		return err
	}
	for range countsOfOther {
		if err := store.CountClone(context.Background()); err != nil {
			return err
		}
	}
	_, err := store.Use(context.Background(), ingredients("a"), func(ctx context.Context, dir string) error {
		return errors.Join(save(dir), say("building"))
	})
	return err
}

// countsOfOther is how many clones each of the other processes counts.
const countsOfOther = 20

// other is another process.
type other struct {
	*exec.Cmd
	tell  io.WriteCloser
	lines *bufio.Reader
}

func startOther(t *testing.T, dir string) other {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), otherVariable+"="+dir)
	cmd.Stderr = t.Output()
	tell, err := cmd.StdinPipe()
	check(t, err)
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return other{cmd, tell, bufio.NewReader(stdout)}
}

// next is what it says next, "" at its end.
func (o other) next() string {
	line, _ := o.lines.ReadString('\n')
	return strings.TrimSpace(line)
}

func (o other) goOn(t *testing.T) {
	t.Helper()
	_, err := fmt.Fprintln(o.tell)
	check(t, err)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ingredients are those of a template of that configuration, with files that are other ones for another text.
func ingredients(configuration string, files ...string) []hypervisor.Ingredient {
	return []hypervisor.Ingredient{
		{Name: hypervisor.IngredientArguments, Value: configuration},
		{Name: "kernel", Path: "/k", Value: strings.Join(files, " ")},
	}
}

// save is a Builder's part in the directory that it is given.
func save(dir string) error {
	return os.WriteFile(filepath.Join(dir, "memory"), []byte("a machine"), 0o600)
}

func quick(_ context.Context, dir string) error { return save(dir) }

// never is the Builder of a template that is there.
func never(t *testing.T) Builder {
	return func(context.Context, string) error {
		t.Error("it is built again")
		return errors.New("built again")
	}
}

// names are the names in a directory but for those of locks and counts.
func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	check(t, err)
	for _, entry := range entries {
		if name := entry.Name(); name != lockFile && name != countsFile {
			names = append(names, name)
		}
	}
	return names
}

// newStore is an empty store, whose directory is not there yet.
func newStore(t *testing.T) *Store {
	t.Helper()
	return Open(filepath.Join(t.TempDir(), "templates"))
}
