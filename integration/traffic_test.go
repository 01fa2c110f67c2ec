package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/limpet-run/limpet/integration/harness"
)

// addresses returns the addresses of a box of nerdctl, of both versions of IP.
func (s *scope) addresses(name string) [2]string {
	s.Helper()
	const format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}"
	var found [2]string
	_, err := fmt.Sscan(s.nerdctl("inspect", "--format", format, name), &found[0], &found[1])
	s.must(err)
	return found
}

// page serves its name over HTTP.
func page(name string) []string {
	return []string{"sh", "-c", "mkdir /www && echo " + name + " >/www/index.html && exec httpd -f -p 80 -h /www"}
}

// TestTraffic pings and fetches pages between two containers of nerdctl's bridge and the host, in every direction.
func TestTraffic(t *testing.T) {
	s := begin(t)
	for _, name := range []string{"left", "right"} {
		s.box(name, nil, page(name)...)
		s.awaitPort(name, 80)
	}
	host := s.servePage("host")
	addresses := map[string][2]string{
		"left": s.addresses("left"), "right": s.addresses("right"), "host": {harness.Gateway4, harness.Gateway6},
	}
	inside := func(name string) func(...string) harness.Result {
		return func(command ...string) harness.Result {
			return daemon.Nerdctl(s.ctx, append([]string{"exec", name}, command...)...)
		}
	}
	for _, way := range []struct {
		from string
		run  func(...string) harness.Result
		to   string
	}{
		{"left", inside("left"), "right"}, {"right", inside("right"), "left"}, {"left", inside("left"), "host"},
		{"host", host, "left"}, {"host", host, "right"},
	} {
		for _, address := range addresses[way.to] {
			if result := way.run("busybox", "ping", "-c", "2", "-W", "10", address); result.Err() != nil {
				t.Errorf("%s pings %s at %s: %v: %s", way.from, way.to, address, result.Err(), result.Stdout)
			}
			result := way.run("busybox", "wget", "-q", "-O", "-", "http://"+net.JoinHostPort(address, "80")+"/")
			if result.Stdout != way.to+"\n" {
				t.Errorf("%s fetches from %s at %s: %q, %v", way.from, way.to, address, result.Stdout, result.Err())
			}
		}
	}
}

// servePage serves a page with that text on the host's port 80, and returns what runs a command there.
func (s *scope) servePage(text string) func(...string) harness.Result {
	s.Helper()
	dir := s.TempDir()
	s.must(os.WriteFile(filepath.Join(dir, "index.html"), []byte(text+"\n"), 0o644))
	server := daemon.Command(context.Background(), "busybox", "httpd", "-f", "-p", "80", "-h", dir)
	s.must(server.Start())
	s.Cleanup(func() { s.must(errors.Join(server.Process.Kill(), ignoreExit(server.Wait()))) })
	return func(command ...string) harness.Result { return harness.Run(daemon.Command(s.ctx, command...)) }
}

// ignoreExit is nil for the error of a command that was killed.
func ignoreExit(err error) error {
	if _, exit := errors.AsType[*exec.ExitError](err); exit {
		return nil
	}
	return err
}

// TestGigabyte sends a gigabyte from the host to a container, which sends it back.
func TestGigabyte(t *testing.T) {
	s := begin(t)
	s.box("echo", nil, "nc", "-l", "-p", "7", "-e", "cat")
	s.awaitPort("echo", 7)
	conn, err := daemon.Dial(s.ctx, net.JoinHostPort(s.addresses("echo")[0], "7"))
	s.must(err)
	defer conn.Close()
	const size = 1 << 30
	sent, received := sha256.New(), sha256.New()
	sending := make(chan error, 1)
	go func() {
		source := io.LimitReader(mathrand.NewChaCha8([32]byte{}), size)
		_, err := io.Copy(io.MultiWriter(conn, sent), source)
		sending <- errors.Join(err, conn.(*net.TCPConn).CloseWrite())
	}()
	n, err := io.Copy(received, conn)
	if err = errors.Join(err, <-sending); err != nil || n != size {
		t.Fatalf("%d bytes came back: %v", n, err)
	}
	if want, got := sent.Sum(nil), received.Sum(nil); !bytes.Equal(want, got) {
		t.Errorf("sent %x, received %x", want, got)
	}
}

// TestBetweenContainers sends a file from one container to another, which sends back what it has got.
func TestBetweenContainers(t *testing.T) {
	s := begin(t)
	dir := s.TempDir()
	content := make([]byte, 64<<20)
	_, err := rand.Read(content)
	s.must(err)
	s.must(os.WriteFile(filepath.Join(dir, "file"), content, 0o644))
	s.box("receiver", nil, "nc", "-l", "-p", "7", "-e", "sha256sum")
	s.awaitPort("receiver", 7)
	sum := sha256.Sum256(content)
	s.expect("^"+hex.EncodeToString(sum[:]), s.boxArgs("sender", []string{"--rm", "--volume", dir + ":/data"},
		"sh", "-c", "nc "+s.addresses("receiver")[0]+" 7 </data/file")...)
}
