package integration

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/integration/harness"
)

// background is a program that runs beside the test, which ends it.
type background struct {
	*scope
	cmd   *exec.Cmd
	lines *bufio.Reader // its standard output
}

func (s *scope) background(program string, arguments ...string) background {
	s.Helper()
	cmd := exec.CommandContext(s.ctx, program, arguments...)
	cmd.Stderr = s.Output()
	stdout, err := cmd.StdoutPipe()
	s.must(err)
	s.must(cmd.Start())
	s.Cleanup(func() {
		_ = cmd.Process.Kill() // if it runs
		_ = cmd.Wait()
	})
	return background{s, cmd, bufio.NewReader(stdout)}
}

// line awaits the program's next line, which begins with a text, and returns what follows that.
func (b background) line(begins string) string {
	b.Helper()
	line, err := b.lines.ReadString('\n')
	b.must(err)
	rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), begins)
	if !ok {
		b.Fatalf("%s says %q, want %q", b.cmd.Path, line, begins)
	}
	return rest
}

// proxy has a few lines of Python lead a unix socket to containerd by byte streams of kind 0, and returns how a ctr behind it ends.
func (s *scope) proxy(address string) (ctr func(arguments ...string) harness.Result) {
	s.Helper()
	socket := filepath.Join(s.TempDir(), "proxy.sock")
	s.background("python3", "streams.py", "proxy", socket, address).line("listening")
	return func(arguments ...string) harness.Result {
		return daemon.Ctr(s.ctx, append([]string{"--address", socket}, arguments...)...)
	}
}

// output opens a byte stream of kind 1 by a few lines of Python, and returns the FIFO, whose output is the program's.
func (s *scope) openOutput(address string) (fifo string, output background) {
	s.Helper()
	output = s.background("python3", "streams.py", "open", address, "1")
	return output.line(""), output
}

// TestSidecarServe has an unmodified ctr run a container of limpet by way of the sidecar, whose output goes to a FIFO of the sidecar's.
func TestSidecarServe(t *testing.T) {
	s := begin(t)
	dir := s.TempDir()
	sidecar := s.background(daemon.Build.Path("bin/limpet"), "sidecar", "serve", "--containerd", daemon.Address(),
		"--listen", filepath.Join(dir, "stream.sock"), "--output", filepath.Join(dir, "output"), "--tcp", "127.0.0.1:0")
	addresses := map[string]string{"unix": sidecar.line("serving on "), "tcp": sidecar.line("serving on ")}
	for network, address := range addresses {
		ctr := s.proxy(address)
		if images := ctr("images", "ls", "--quiet"); !strings.Contains(images.Stdout, harness.Image+"\n") {
			t.Errorf("%s: images %q, %v", network, images.Stdout, images.Err())
		}
		spec := s.spec([]string{"--rm"}, "sh", "-c", "echo said; exit 3")
		if result := ctr(daemon.Args("run", spec)...); result.Stdout != "said\n" || result.Code != 3 {
			t.Errorf("%s: a container wrote %q, exit code %d: %v", network, result.Stdout, result.Code, result.Err())
		}
		fifo, output := s.openOutput(address)
		spec = s.spec([]string{"--rm", "--log-uri", "fifo://" + fifo}, "sh", "-c", "echo out; echo err >&2")
		s.must(ctr(daemon.Args("run", spec)...).Err())
		if text, err := io.ReadAll(output.lines); string(text) != "out\nerr\n" && string(text) != "err\nout\n" || err != nil {
			t.Errorf("%s: the FIFO told %q, %v", network, text, err)
		}
		s.wantHungUp(network, address)
	}
	s.must(sidecar.cmd.Process.Signal(unix.SIGTERM))
	s.must(sidecar.cmd.Wait())
	if left, err := os.ReadDir(dir); len(left) != 0 || err != nil {
		t.Errorf("the sidecar left %v, %v", left, err)
	}
}

// innerConfig is of a containerd in a container, which needs nothing that is not there.
const innerConfig = `version = 3
root = "/run/inner/root"
state = "/run/inner/state"
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri"]
`

// TestContainerdInside reaches a containerd that runs in a privileged container, from the sandbox's socket on the host, and by a FIFO what
// is written in that container.
func TestContainerdInside(t *testing.T) {
	s := limpetOnly(t)
	config := filepath.Join(s.TempDir(), "config.toml")
	s.must(os.WriteFile(config, []byte(innerConfig), 0o600))
	program, err := filepath.EvalSymlinks(daemon.Build.Path("bin/containerd"))
	s.must(err)
	c := s.start([]string{
		"--privileged", "--mount", "type=bind,src=" + config + ",dst=/etc/containerd.toml,options=bind:ro",
		"--mount", "type=bind,src=" + program + ",dst=/bin/containerd,options=bind:ro",
	}, "containerd", "--config", "/etc/containerd.toml")
	door := c.streamDoor()
	s.must(c.exec(nil, "sh", "-c", "until [ -S /run/containerd/containerd.sock ]; do usleep 50000; done").Err())

	ctr := s.proxy(door)
	if images := ctr("images", "ls", "--quiet"); images.Stdout != "" || images.Err() != nil {
		t.Errorf("images at first: %q, %v", images.Stdout, images.Err())
	}
	s.must(ctr("images", "import", "--local", daemon.Build.Path("busybox.tar")).Err())
	if images := ctr("images", "ls", "--quiet"); images.Stdout != harness.Image+"\n" {
		t.Errorf("images after the import: %q, %v", images.Stdout, images.Err())
	}
	fifo, output := s.openOutput(door)
	s.must(c.exec([]string{"--user", "1234"}, "sh", "-c", "echo Compiling ... >"+fifo).Err())
	if text, err := io.ReadAll(output.lines); string(text) != "Compiling ...\n" || err != nil {
		t.Errorf("the FIFO told %q, %v", text, err)
	}
	s.must(c.exec(nil, "sh", "-c", "[ ! -e "+fifo+" ]").Err())
}
