package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mount makes a directory of the host and mounts something on it, until the test ends.
func (s *scope) mount(source, target, kind string, flags uintptr, data string) {
	s.Helper()
	s.must(os.MkdirAll(target, 0o755))
	s.must(unix.Mount(source, target, kind, flags, data))
	s.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			s.Error(err)
		}
	})
}

// starts makes and starts a container with a changed configuration, which does nothing until it is killed.
func (s *scope) starts(flags []string, changes ...func(*specs.Spec)) container {
	s.Helper()
	c := s.create(flags, "sleep", "1000000")
	c.changeSpec(func(spec *specs.Spec) {
		for _, change := range changes {
			change(spec)
		}
	})
	c.createTask(&tasks.CreateTaskRequest{})
	c.startTask("")
	return c
}

// shell runs a script in the container, which has to succeed, and returns what it wrote.
func (c container) shell(script string) string {
	c.Helper()
	result := c.exec(nil, "sh", "-c", script)
	if err := result.Err(); err != nil {
		c.Errorf("%s: %v", script, err)
	}
	return result.Stdout
}

// remove kills the container and deletes its task.
func (c container) remove() {
	c.Helper()
	c.kill(unix.SIGKILL)
	c.wait("")
	c.deleteTask()
}

// TestMemoryVolume has two containers share a volume in memory, and one of them a directory of it, as kubelet has made them. Their files
// are the guest's: they take none of the host's memory, and are gone with the sandbox.
func TestMemoryVolume(t *testing.T) {
	s := limpetOnly(t)
	dir := t.TempDir()
	whole := filepath.Join(dir, "volumes/kubernetes.io~empty-dir/cache")
	part := filepath.Join(dir, "volume-subpaths/cache/app/0")
	s.mount("tmpfs", whole, "tmpfs", 0, "size=1m,mode=2777,gid=5")
	s.must(os.MkdirAll(filepath.Join(whole, "logs/app"), 0o750))
	s.mount(filepath.Join(whole, "logs/app"), part, "", unix.MS_BIND, "")

	first := s.starts(nil, bind(whole, "/data", "rbind", "rw"))
	pod := first.pod()
	second := s.starts(pod, bind(whole, "/all", "rbind", "ro"), bind(part, "/logs", "rbind", "rw"))
	if got := first.shell("stat -f -c %T /data; stat -c '%a %g' /data; df -k /data | awk 'END { print $2 }'"); got != "tmpfs\n2777 5\n1024\n" {
		t.Errorf("the volume is %q", got)
	}
	first.shell("echo from the first >/data/file; echo log >/data/logs/app/log")
	if got := second.shell("cat /all/file /logs/log; stat -c %a /logs; touch /all/new 2>&1 || true"); got !=
		"from the first\nlog\n2750\ntouch: /all/new: Read-only file system\n" {
		t.Errorf("the second sees %q", got)
	}
	second.shell("echo more >>/logs/log")
	if got := first.shell("cat /data/logs/app/log; dd if=/dev/zero of=/data/big bs=64k count=17 2>&1 | grep -o 'No space.*'"); got !=
		"log\nmore\nNo space left on device\n" {
		t.Errorf("the first sees %q", got)
	}
	if entries, err := filepath.Glob(filepath.Join(whole, "*")); err != nil || len(entries) != 1 { // logs
		t.Errorf("on the host: %v, %v", entries, err)
	}
	second.remove()
	third := s.starts(pod, bind(whole, "/data", "rbind"))
	if got := third.shell("cat /data/file"); got != "from the first\n" {
		t.Errorf("a later container sees %q", got)
	}
}

// loopDevice makes a block device of the host that begins with the text. It goes with the test.
func (s *scope) loopDevice(text string) (path string, device specs.LinuxDevice) {
	s.Helper()
	image := filepath.Join(s.TempDir(), "disk")
	s.must(os.WriteFile(image, []byte(text), 0o600))
	s.must(os.Truncate(image, 8<<20))
	output, err := exec.Command("losetup", "--find", "--show", image).Output()
	s.must(err)
	path = strings.TrimSpace(string(output))
	s.Cleanup(func() {
		if err := exec.Command("losetup", "--detach", path).Run(); err != nil {
			s.Error(err)
		}
	})
	var status unix.Stat_t
	s.must(unix.Stat(path, &status))
	return path, specs.LinuxDevice{
		Path: "/dev/data", Type: "b", Major: int64(unix.Major(status.Rdev)), Minor: int64(unix.Minor(status.Rdev)), FileMode: mode(0o660),
		GID: id32(6),
	}
}

// withDevice gives a container a device, and the access to it.
func withDevice(device specs.LinuxDevice, access string) func(*specs.Spec) {
	return func(spec *specs.Spec) {
		spec.Linux.Devices = append(spec.Linux.Devices, device)
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: device.Type, Major: &device.Major, Minor: &device.Minor, Access: access}
		spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, rule)
	}
}

// TestBlockVolume gives a block device of the host to containers, that write to it or only read, one after the other and at once.
func TestBlockVolume(t *testing.T) {
	s := begin(t)
	path, device := s.loopDevice("written on the host")
	open := func() (names []string) {
		files, err := filepath.Glob("/proc/[0-9]*/fd/*")
		s.must(err)
		for _, file := range files {
			if target, _ := os.Readlink(file); target == path {
				names = append(names, file)
			}
		}
		return names
	}
	stays := s.sleeper()
	pod := stays.pod()
	first := s.starts(pod, withDevice(device, "rwm"))
	if got := first.shell("stat -c '%a %u:%g' /dev/data; head -c 19 /dev/data"); got != "660 0:6\nwritten on the host" {
		t.Errorf("the first sees %q", got)
	}
	first.shell("printf 'by the first' | dd of=/dev/data conv=notrunc,fsync 2>/dev/null")
	text, err := os.ReadFile(path)
	s.must(err)
	if !bytes.HasPrefix(text, []byte("by the firsthe host")) {
		t.Errorf("the host reads %.20q", text)
	}
	reader := s.starts(pod, withDevice(device, "r"))
	if got := reader.shell("head -c 12 /dev/data; echo; echo x 2>&1 >/dev/data || true"); !strings.HasPrefix(got, "by the first\n") ||
		!strings.Contains(got, "ermitted") && !strings.Contains(got, "denied") {
		t.Errorf("the reader sees %q", got)
	}
	third := s.starts(pod, withDevice(device, "rwm"))
	first.remove()
	if got := third.shell("head -c 12 /dev/data"); got != "by the first" {
		t.Errorf("the third sees %q", got)
	}
	third.shell("mkfs.ext2 /dev/data >/dev/null 2>&1; [ $(blockdev --getsize64 /dev/data) = 8388608 ]")
	reader.remove()
	third.remove()
	if left := open(); runtime != "io.containerd.runc.v2" && len(left) > 0 {
		t.Errorf("the host's device is still open: %q", left)
	}
	again := s.starts(pod, withDevice(device, "rwm"))
	again.shell("head -c 12 /dev/data >/dev/null")
}

// TestMappedVolume has a container with a user namespace see files of the host's root as its root's, and make such; so it does in a volume
// in memory.
func TestMappedVolume(t *testing.T) {
	s := limpetOnly(t)
	dir := t.TempDir()
	memory := filepath.Join(dir, "kubernetes.io~empty-dir/cache")
	s.mount("tmpfs", memory, "tmpfs", 0, "size=1m,mode=0700")
	s.must(os.Chmod(dir, 0o700))
	s.must(os.WriteFile(filepath.Join(dir, "file"), []byte("root's\n"), 0o600))
	mapped := func(source, destination string) func(*specs.Spec) {
		return func(spec *specs.Spec) {
			spec.Mounts = append(spec.Mounts, specs.Mount{
				Destination: destination, Type: "bind", Source: source, Options: []string{"rbind", "rw"},
				UIDMappings: spec.Linux.UIDMappings, GIDMappings: spec.Linux.GIDMappings,
			})
		}
	}
	stays := s.starts(nil, bind(memory, "/home", "rbind"))
	c := s.starts(stays.pod(), withUserNamespace, mapped(dir, "/home"), mapped(memory, "/tmp"))
	if got := c.shell("cat /home/file; stat -c %u:%g /home/file; echo made >/home/made; mkdir /home/sub; chown 7:8 /home/sub"); got !=
		"root's\n0:0\n" {
		t.Errorf("the container sees %q", got)
	}
	for name, want := range map[string][2]uint32{"made": {0, 0}, "sub": {7, 8}} {
		var status unix.Stat_t
		s.must(unix.Stat(filepath.Join(dir, name), &status))
		if status.Uid != want[0] || status.Gid != want[1] {
			t.Errorf("%s is of %d:%d on the host, want %v", name, status.Uid, status.Gid, want)
		}
	}
	if got := c.shell("stat -c %u:%g /tmp; echo made >/tmp/made; stat -c %u:%g /tmp/made"); got != "0:0\n0:0\n" {
		t.Errorf("in memory the container sees %q", got)
	}
	if got := stays.shell("stat -c %u:%g /home/made"); got != "0:0\n" {
		t.Errorf("another container sees the owner %q", got)
	}
}

// TestAtomicUpdate changes a volume as kubelet changes a configMap: all files at once, by a link. A running container sees it within two
// seconds, whole; so it does a file that is replaced by its name.
func TestAtomicUpdate(t *testing.T) {
	s := begin(t)
	dir := t.TempDir()
	s.must(os.Chmod(dir, 0o755))
	publish := func(version int) {
		name := fmt.Sprintf("..version-%d", version)
		s.must(os.Mkdir(filepath.Join(dir, name), 0o755))
		for _, file := range []string{"one", "two"} {
			s.must(os.WriteFile(filepath.Join(dir, name, file), fmt.Appendf(nil, "%d\n", version), 0o644))
		}
		s.must(os.Symlink(name, filepath.Join(dir, "..new")))
		s.must(os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")))
		s.must(os.WriteFile(filepath.Join(dir, "plain.new"), fmt.Appendf(nil, "%d\n", version), 0o644))
		s.must(os.Rename(filepath.Join(dir, "plain.new"), filepath.Join(dir, "plain")))
		s.must(os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..version-%d", version-1))))
	}
	publish(1)
	for _, file := range []string{"one", "two"} {
		s.must(os.Symlink("..data/"+file, filepath.Join(dir, file)))
	}
	const versions = 4
	script := fmt.Sprintf(`for version in $(seq %d); do
			until [ "$(sort -u /config/one /config/two /config/plain 2>/dev/null)" = $version ]; do sleep 0.02; done
			echo $version
		done; exec sleep 1000000`, versions)
	c := s.scripted(nil, bind(dir, "/config", "rbind", "ro"), script)
	stdout := s.fifo()
	output := bufio.NewReader(s.openFIFO(stdout))
	c.createTask(&tasks.CreateTaskRequest{Stdout: stdout, Stderr: stdout})
	c.startTask("")
	for version := 1; version <= versions; version++ {
		began := time.Now()
		if version > 1 {
			publish(version)
		}
		line, err := output.ReadString('\n')
		s.must(err)
		took := time.Since(began).Round(time.Millisecond)
		if want := fmt.Sprintf("%d\n", version); line != want {
			t.Fatalf("the container saw %q, want %q", line, want)
		}
		t.Logf("version %d was seen after %s", version, took)
		if version > 1 && took > configSoon {
			t.Errorf("that is more than %s", configSoon)
		}
	}
}

// TestVolumeVanishes takes volumes away from a container before it starts and while it runs. Others live on, and can be removed.
func TestVolumeVanishes(t *testing.T) {
	s := begin(t)
	stays := s.sleeper()
	pod := stays.pod()
	dir := filepath.Join(t.TempDir(), "volume")
	s.must(os.Mkdir(dir, 0o755))
	s.must(os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644))
	running := s.starts(pod, bind(dir, "/data", "rbind"))
	created := s.create(pod, "sleep", "1000000")
	created.changeSpec(bind(dir, "/data", "rbind"))
	created.createTask(&tasks.CreateTaskRequest{})
	s.must(os.RemoveAll(dir))
	if got := running.exec(nil, "cat", "/data/file"); got.Code == 0 {
		t.Errorf("the file is still there: %q", got.Stdout)
	}
	running.shell("true")
	// A mount keeps a directory that has been removed, so that a container starts with an empty one, as it does on a host.
	created.startTask("")
	created.shell("true")
	for _, c := range []container{running, created} {
		c.remove()
	}
	stays.shell("true")
}
