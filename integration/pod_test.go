package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/limpet-run/limpet/integration/harness"
)

// configMap is a directory as a kubelet makes it of a ConfigMap with one key: all keys change at once, when the link to the directory
// with their values is replaced.
type configMap struct{ dir string }

const (
	configKey = "colour"
	// configSoon is how long a container may take to see a ConfigMap's new values.
	configSoon = 2 * time.Second
)

// set writes the key's value of that version.
func (m configMap) set(version int, value string) error {
	values := fmt.Sprintf("..%d", version)
	link, key := filepath.Join(m.dir, "..data"), filepath.Join(m.dir, configKey)
	err := errors.Join(
		os.Mkdir(filepath.Join(m.dir, values), 0o755),
		os.WriteFile(filepath.Join(m.dir, values, configKey), []byte(value), 0o644),
		os.Symlink(values, link+"_tmp"),
		os.Rename(link+"_tmp", link),
	)
	if version > 1 {
		return errors.Join(err, os.RemoveAll(filepath.Join(m.dir, fmt.Sprintf("..%d", version-1))))
	}
	return errors.Join(err, os.Symlink("..data/"+configKey, key))
}

// TestPod has a pod of an init container, a server and a sidecar do what pods do, through an end of containerd, to its removal.
func TestPod(t *testing.T) {
	eachMode(t, func(s *podScope) {
		shared, config := s.TempDir(), configMap{s.TempDir()}
		s.must(config.set(1, "blue"))
		emptyDir := volume(shared, "/shared", false)
		p := s.run(s.podConfig())

		first := harness.ContainerConfig("init", "sh", "-c", "echo made by init >/shared/index.html; exit 3")
		first.Mounts = []*cri.Mount{emptyDir}
		if code := p.exited(p.start(first)); code != 3 {
			s.Errorf("init exited with %d, want 3", code)
		}
		server := harness.ContainerConfig("app", "sh", "-c", "echo from app >/dev/shm/note; exec httpd -f -p 127.0.0.1:8080 -h /shared")
		server.Mounts = []*cri.Mount{emptyDir, volume(config.dir, "/config", true)}
		app := p.start(server)
		talker := harness.ContainerConfig("sidecar", "sh", "-c", `while read line; do echo "heard $line"; done`)
		talker.Stdin, talker.Mounts = true, []*cri.Mount{emptyDir}
		sidecar := p.start(talker)

		// What they share.
		p.wantExec("made by init", sidecar, "sh", "-c",
			"until wget -q -O - http://127.0.0.1:8080/index.html; do sleep 0.1; done 2>/dev/null")
		p.wantExec("from app", sidecar, "cat", "/dev/shm/note")
		for _, namespace := range []string{"ipc", "uts", "net"} {
			link := "/proc/self/ns/" + namespace
			p.wantExec(p.execSync(app, "readlink", link), sidecar, "readlink", link)
		}
		p.wantExec(p.Config.Hostname, sidecar, "hostname")

		p.wantExecStreams(app)
		p.wantUpdate(config, app)
		p.wantAttach(sidecar, "one")

		// An end of containerd is nothing to them.
		before := p.state(app)
		s.must(daemon.Kill())
		s.must(daemon.Restart(s.ctx))
		if after := p.state(app); after.State != cri.ContainerState_CONTAINER_RUNNING || after.StartedAt != before.StartedAt {
			s.Errorf("after containerd's end the server is %v, before %v", after, before)
		}
		p.wantExec("made by init", sidecar, "wget", "-q", "-O", "-", "http://127.0.0.1:8080/index.html")
		p.wantAttach(sidecar, "two")

		// Its log has what it wrote before and after containerd's end.
		log, err := os.ReadFile(p.state(sidecar).LogPath)
		s.must(err)
		if !regexp.MustCompile(`^\S+ stdout F heard one\n\S+ stdout F heard two\n$`).Match(log) {
			s.Errorf("the sidecar's log: %q", log)
		}
		p.removeTwice()
	})
}

// wantExecStreams runs a command with standard streams, and one with a terminal.
func (p pod) wantExecStreams(container string) {
	p.Helper()
	var stdout, stderr strings.Builder
	code, err := daemon.Exec(p.ctx, container, harness.Streams{Stdin: strings.NewReader("in"), Stdout: &stdout, Stderr: &stderr},
		"sh", "-c", "cat; echo err >&2; exit 5")
	if err != nil || code != 5 || stdout.String() != "in" || stderr.String() != "err\n" {
		p.Errorf("exec: %d, %q, %q, %v", code, &stdout, &stderr, err)
	}
	stdout.Reset()
	code, err = daemon.Exec(p.ctx, container, harness.Streams{Stdout: &stdout, TTY: true}, "sh", "-c", "tty; echo all")
	if err != nil || code != 0 || stdout.String() != "/dev/pts/0\r\nall\r\n" {
		p.Errorf("exec with a terminal: %d, %q, %v", code, &stdout, err)
	}
}

// wantUpdate changes a ConfigMap and has a container see that soon, with no half of it.
func (p pod) wantUpdate(config configMap, container string) {
	p.Helper()
	seen := make(chan error, 1)
	reading, read := io.Pipe()
	go func() {
		_, err := daemon.Exec(p.ctx, container, harness.Streams{Stdout: read}, "sh", "-c",
			"cat /config/colour; until [ $(cat /config/colour) = green ]; do sleep 0.1; done")
		seen <- errors.Join(err, read.Close())
	}()
	old := make([]byte, len("blue"))
	_, err := io.ReadFull(reading, old)
	p.must(err)
	if string(old) != "blue" {
		p.Errorf("at first it read %q", old)
	}
	began := time.Now()
	p.must(config.set(2, "green"))
	p.must(<-seen)
	took := time.Since(began)
	p.Logf("a ConfigMap's new values were seen after %s", took.Round(time.Millisecond))
	if took > configSoon {
		p.Errorf("that is more than %s", configSoon)
	}
}

// wantAttach joins a container that repeats what it is told, tells it something, and leaves it.
func (p pod) wantAttach(container, word string) {
	p.Helper()
	ctx, detach := context.WithCancel(p.ctx)
	defer detach()
	input, said := io.Pipe()
	heard, output := io.Pipe()
	attached := make(chan error, 1)
	go func() {
		attached <- daemon.Attach(ctx, container, harness.Streams{Stdin: input, Stdout: output})
		output.Close()
	}()
	fmt.Fprintln(said, word)
	line, err := bufio.NewReader(heard).ReadString('\n')
	if err != nil || line != "heard "+word+"\n" {
		p.Errorf("attached: read %q, %v", line, err)
	}
	detach()
	if err := <-attached; !errors.Is(err, context.Canceled) {
		p.Errorf("detached: %v", err)
	}
	if state := p.state(container).State; state != cri.ContainerState_CONTAINER_RUNNING {
		p.Errorf("detached, the container is %s", state)
	}
}
