package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/limpet-run/limpet/integration/harness"
)

// TestPodVolumes has two containers of a pod use the kinds of volumes that are no plain directories: shared memory, a volume in memory
// and a part of it, a block device, a secret, and the file for the last words.
func TestPodVolumes(t *testing.T) {
	eachMode(t, func(s *podScope) {
		dir := s.TempDir()
		memory := filepath.Join(dir, "volumes/kubernetes.io~empty-dir/cache")
		part := filepath.Join(dir, "volume-subpaths/cache/second/0")
		secret := filepath.Join(dir, "volumes/kubernetes.io~secret/password")
		message := filepath.Join(dir, "message")
		s.mount("tmpfs", memory, "tmpfs", 0, "size=2m,mode=0777")
		s.must(os.Mkdir(filepath.Join(memory, "part"), 0o755))
		s.mount(filepath.Join(memory, "part"), part, "", unix.MS_BIND, "")
		s.mount("tmpfs", secret, "tmpfs", 0, "size=64k")
		s.must(os.WriteFile(filepath.Join(secret, "word"), []byte("old"), 0o600))
		s.must(os.WriteFile(message, nil, 0o666))
		path, _ := s.loopDevice("written on the host")
		block := &cri.Device{HostPath: path, ContainerPath: "/dev/data", Permissions: "mrw"}

		podConfig := s.podConfig()
		podConfig.Linux.SecurityContext.Privileged = true
		p := s.run(podConfig)
		config := harness.ContainerConfig("first", "sh", "-c",
			"until [ -e /cache/end ]; do sleep 0.1; done; echo last words >/dev/termination-log")
		config.Mounts = []*cri.Mount{
			volume(memory, "/cache", false), volume(secret, "/secret", true), volume(message, "/dev/termination-log", false),
		}
		config.Devices = []*cri.Device{block}
		first := p.start(config)
		config = harness.ContainerConfig("second", "sleep", "1000000")
		config.Mounts = []*cri.Mount{volume(part, "/part", false), volume(memory, "/cache", true)}
		config.Devices = []*cri.Device{block}
		config.Linux.SecurityContext.Privileged = true
		second := p.start(config)

		const size = "df -k %s | awk 'END { print $2 }'"
		p.wantExec("2048", first, "sh", "-c", fmt.Sprintf(size, "/cache"))
		p.wantExec("65536", first, "sh", "-c", fmt.Sprintf(size, "/dev/shm"))
		p.wantExec("", first, "sh", "-c", "echo shared >/dev/shm/note; echo cached >/cache/note; echo in part >/cache/part/note")
		p.wantExec("shared\ncached\nin part", second, "cat", "/dev/shm/note", "/cache/note", "/part/note")
		p.wantExec("written", first, "head", "-c", "7", "/dev/data")
		p.wantExec("", first, "sh", "-c", "printf changed | dd of=/dev/data conv=notrunc,fsync 2>/dev/null")
		p.wantExec("changed", second, "head", "-c", "7", "/dev/data")
		p.wantExec("old", first, "cat", "/secret/word")
		s.must(os.WriteFile(filepath.Join(secret, "word"), []byte("renewed"), 0o600))
		p.wantExec("renewed", first, "sh", "-c", "until grep renewed /secret/word; do sleep 0.1; done")

		p.wantExec("", first, "touch", "/cache/end")
		p.exited(first)
		if text, err := os.ReadFile(message); err != nil || string(text) != "last words\n" {
			s.Errorf("the host reads the last words %q, %v", text, err)
		}
		s.must(p.Remove(s.ctx))
		if text, err := os.ReadFile(path); err != nil || string(text[:19]) != "changed on the host" {
			s.Errorf("the host reads %.19q, %v", text, err)
		}
	})
}
