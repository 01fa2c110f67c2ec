package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestCommand is what a container sees of the options it was made with.
func TestCommand(t *testing.T) {
	s := begin(t)
	tests := []struct {
		name    string
		flags   []string
		command []string
		want    string
	}{
		{"environment", []string{"--env", "FRUIT=fig and date"}, []string{"sh", "-c", "echo $FRUIT"}, "fig and date\n"},
		{"working directory", []string{"--cwd", "/etc"}, []string{"pwd"}, "/etc\n"},
		{"user", []string{"--user", "1234:5678"}, []string{"sh", "-c", "id -u; id -g"}, "1234\n5678\n"},
		{"host name", []string{"--hostname", "barnacle"}, []string{"hostname"}, "barnacle\n"},
		{"read-only root", []string{"--read-only"}, []string{"sh", "-c", "touch /new 2>&1; true"},
			"touch: /new: Read-only file system\n"},
		{"writable root", nil, []string{"sh", "-c", "echo text >/new && cat /new"}, "text\n"},
		{"process 1", nil, []string{"sh", "-c", "echo $$"}, "1\n"},
		{"quoting", nil, []string{"printf", "%s|", "a b", "", "$HOME", `"`}, `a b||$HOME|"|`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			result := s.run(test.flags, test.command...)
			if err := result.Err(); err != nil {
				t.Fatal(err)
			}
			if result.Stdout != test.want {
				t.Errorf("wrote %q, want %q", result.Stdout, test.want)
			}
		})
	}
}

func TestBindMounts(t *testing.T) {
	s := begin(t)
	dir := s.TempDir()
	s.must(os.WriteFile(filepath.Join(dir, "given"), []byte("from the host\n"), 0o644))
	mount := func(options string) []string {
		return []string{"--mount", "type=bind,src=" + dir + ",dst=/data,options=rbind:" + options}
	}

	if got := s.output(mount("rw"), "sh", "-c", "cat /data/given && echo from the container >/data/made"); got != "from the host\n" {
		t.Errorf("the container read %q", got)
	}
	made, err := os.ReadFile(filepath.Join(dir, "made"))
	s.must(err)
	if string(made) != "from the container\n" {
		t.Errorf("the host reads %q", made)
	}

	got := s.output(mount("ro"), "sh", "-c", "cat /data/given; touch /data/more 2>&1; true")
	if want := "from the host\ntouch: /data/more: Read-only file system\n"; got != want {
		t.Errorf("read-only: the container wrote %q, want %q", got, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "more")); err == nil {
		t.Error("read-only: the container made a file on the host")
	}
}

// TestBindMountOfFile mounts a single file over one of the image.
func TestBindMountOfFile(t *testing.T) {
	s := begin(t)
	path := filepath.Join(s.TempDir(), "file")
	s.must(os.WriteFile(path, []byte("one file\n"), 0o644))
	got := s.output([]string{"--mount", "type=bind,src=" + path + ",dst=/etc/one,options=bind:ro"}, "cat", "/etc/one")
	if got != "one file\n" {
		t.Errorf("the container read %q", got)
	}
}

// TestInSequence runs containers one after the other; what one writes to its root the next does not see.
func TestInSequence(t *testing.T) {
	s := begin(t)
	for i := range 2 {
		got := s.output(nil, "sh", "-c", fmt.Sprintf("ls /mark 2>/dev/null; touch /mark; echo %d", i))
		if want := fmt.Sprintf("%d\n", i); got != want {
			t.Errorf("container %d wrote %q, want %q", i, got, want)
		}
	}
}

// TestAtOnce runs five sandboxes at the same time.
func TestAtOnce(t *testing.T) {
	s := begin(t)
	var group sync.WaitGroup
	for i := range 5 {
		spec := s.spec([]string{"--rm"}, "sh", "-c", fmt.Sprintf("echo I am %d; exit %d", i, i))
		group.Go(func() {
			result := daemon.Ctr(s.ctx, daemon.Args("run", spec)...)
			if want := fmt.Sprintf("I am %d\n", i); result.Stdout != want || result.Code != i {
				t.Errorf("container %d wrote %q and exited with %d: %v", i, result.Stdout, result.Code, result.Err())
			}
		})
	}
	group.Wait()
}

// TestKernel shows that a container runs on a kernel of its own.
func TestKernel(t *testing.T) {
	s := limpetOnly(t)
	release := strings.TrimSpace(s.output(nil, "uname", "-r"))
	if !strings.HasPrefix(release, "6.12") {
		t.Errorf("the container's kernel is %q, want a 6.12 one", release)
	}
	host, err := os.ReadFile("/proc/sys/kernel/osrelease")
	s.must(err)
	if release == strings.TrimSpace(string(host)) {
		t.Errorf("the container's kernel is the host's: %q", release)
	}
}
