package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/cgroups/v3"

	"github.com/limpet-run/limpet/hypervisor"
)

// hosts are this host as it is, and each of the two kinds that a host with both is: what there is to test on.
func hosts(t *testing.T) map[string]Host {
	this := ThisHost()
	found := map[string]Host{"this": this}
	if this.mode == cgroups.Hybrid {
		found["v1"] = Host{mode: cgroups.Legacy}
		found["v2"] = Host{mode: cgroups.Unified, unified: this.unified}
	}
	if len(this.mustLocate(t, "/").Directories()) == 0 {
		t.Fatal("this host has no cgroups: mount them at /sys/fs/cgroup")
	}
	return found
}

func (h Host) mustLocate(t *testing.T, path string) hypervisor.Cgroup {
	t.Helper()
	located, err := h.Locate(path)
	if err != nil {
		t.Fatal(err)
	}
	return located
}

// uniquePath is a cgroup that no other run of the tests has.
func uniquePath(t *testing.T) string {
	name, _, _ := strings.Cut(t.Name(), "/")
	return fmt.Sprintf("/limpet-%s-%d/inner", name, os.Getpid())
}

// make makes a cgroup that is removed with the test, with its parent.
func (h Host) make(t *testing.T) (string, hypervisor.Cgroup) {
	t.Helper()
	path := uniquePath(t)
	located := h.mustLocate(t, path)
	t.Cleanup(func() {
		directories := located.Directories()
		for _, directory := range located.Directories() {
			directories = append(directories, strings.TrimSuffix(directory, "/inner"))
		}
		if err := Remove(context.Background(), directories); err != nil {
			t.Error(err)
		}
		for _, directory := range directories {
			if _, err := os.Stat(directory); err == nil {
				t.Errorf("%s is left", directory)
			}
		}
	})
	if err := h.Make(path, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	return path, located
}

// memberships are the cgroups of a process or thread, by hierarchy, as /proc/ID/cgroup tells.
func memberships(t *testing.T, id string) map[string]string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + id + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	return parseMemberships(string(text))
}

func parseMemberships(text string) map[string]string {
	paths := map[string]string{}
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		paths[fields[1]] = fields[2]
	}
	return paths
}

// TestStart has a program look where it is as the first thing, and finds its starter where it was.
func TestStart(t *testing.T) {
	for name, host := range hosts(t) {
		t.Run(name, func(t *testing.T) {
			path, located := host.make(t)
			before := memberships(t, "self")
			reader, writer := io.Pipe()
			cmd := exec.Command("cat", "/proc/self/cgroup")
			cmd.Stdout = writer
			err := hypervisor.StartBound(cmd, located, func() {
				_ = cmd.Wait()
				writer.Close()
			})
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(reader)
			if err != nil {
				t.Fatal(err)
			}
			joined := 0
			for hierarchy, at := range parseMemberships(string(text)) {
				switch at {
				case path:
					joined++
				case before[hierarchy]: // of a hierarchy that is not mounted
				default:
					t.Errorf("%q: it started in %s", hierarchy, at)
				}
			}
			if joined == 0 {
				t.Errorf("it started elsewhere:\n%s", text)
			}
			threads, err := os.ReadDir("/proc/self/task")
			if err != nil {
				t.Fatal(err)
			}
			for _, thread := range threads {
				for hierarchy, at := range memberships(t, "self/task/"+thread.Name()) {
					if at != before[hierarchy] {
						t.Errorf("%q: thread %s of the starter is in %s", hierarchy, thread.Name(), at)
					}
				}
			}
		})
	}
}

// TestStartInMissing starts in a cgroup that is not there: nothing runs, and the starter stays where it was.
func TestStartInMissing(t *testing.T) {
	located := ThisHost().mustLocate(t, uniquePath(t))
	before := memberships(t, "self")
	err := located.Start(exec.Command("true"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	for hierarchy, at := range memberships(t, "self") {
		if at != before[hierarchy] {
			t.Errorf("%q: moved from %s to %s", hierarchy, before[hierarchy], at)
		}
	}
}

// TestRemoveOccupied removes a cgroup in which somebody else has a process.
func TestRemoveOccupied(t *testing.T) {
	_, located := ThisHost().make(t)
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := located.Start(cmd); err != nil {
		t.Fatal(err)
	}
	directories := located.Directories()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Remove(cancelled, directories); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := Remove(t.Context(), directories); err != nil {
		t.Error(err)
	}
	for _, directory := range directories {
		if _, err := os.Stat(directory); err != nil {
			t.Error(err)
		}
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestLoad(t *testing.T) {
	host := ThisHost()
	path, located := host.make(t)
	loaded, err := host.Load(path)
	if err != nil || !slices.Equal(loaded.Directories(), located.Directories()) {
		t.Errorf("got %v, %v", loaded, err)
	}
	if loaded, err := host.Load(path + "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, %v", loaded, err)
	}
}

// TestV2Counts looks at a v2 hierarchy of files: which controllers are asked for, and where.
func TestV2Counts(t *testing.T) {
	root := t.TempDir()
	host := Host{mode: cgroups.Unified, unified: root}
	if err := os.WriteFile(root+"/cgroup.controllers", []byte("cpu memory\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/cgroup.subtree_control", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	if err := host.Make("/inner", slog.New(slog.NewTextHandler(&log, nil))); err != nil {
		t.Fatal(err)
	}
	// A plain file keeps what was written to it last.
	if asked, err := os.ReadFile(root + "/cgroup.subtree_control"); err != nil || string(asked) != "+memory" {
		t.Errorf("asked for %q, %v", asked, err)
	}
	if log.Len() > 0 {
		t.Error(log.String())
	}
	if located := host.mustLocate(t, "/inner"); !slices.Equal(located.Directories(), []string{root + "/inner"}) {
		t.Errorf("located %v", located)
	}
}
