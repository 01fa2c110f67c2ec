package integration

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/services/tasks/v1"
)

// TestEcho is `echo hi | ctr run ... cat`.
func TestEcho(t *testing.T) {
	s := begin(t)
	spec := s.spec([]string{"--rm"}, "cat")
	cmd := daemon.CtrCommand(s.ctx, daemon.Args("run", spec)...)
	stdin, err := cmd.StdinPipe()
	s.must(err)
	stdout, err := cmd.StdoutPipe()
	s.must(err)
	s.must(cmd.Start())
	_, err = io.WriteString(stdin, "hi\n")
	s.must(err)
	// ctr loses an end of input that comes before the task exists, so it comes after the task has answered.
	output := bufio.NewReader(stdout)
	line, err := output.ReadString('\n')
	s.must(err)
	if line != "hi\n" {
		t.Errorf("wrote %q, want %q", line, "hi\n")
	}
	s.must(stdin.Close())
	rest, err := io.ReadAll(output)
	s.must(err)
	if len(rest) > 0 {
		t.Errorf("wrote %q after the end of its input", rest)
	}
	s.must(cmd.Wait())
}

// TestBothWays sends random bytes through a container's standard input and standard output at the same time.
func TestBothWays(t *testing.T) {
	const size = 256 << 20
	s := begin(t)
	spec := s.spec([]string{"--rm"}, "cat")
	cmd := daemon.CtrCommand(s.ctx, daemon.Args("run", spec)...)
	var sent, received digest
	sent.Hash, received.Hash = sha256.New(), sha256.New()
	cmd.Stdin = io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), &sent)
	cmd.Stdout = &received
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		t.Errorf("%v: %s", err, stderr.String())
	}
	if sent.size != size || received.size != size {
		t.Errorf("sent %d bytes and received %d, want %d each", sent.size, received.size, size)
	}
	if sent, received := sent.String(), received.String(); sent != received {
		t.Errorf("sent bytes with the digest %s, received %s", sent, received)
	}
}

// digest is a hash of what is written to it that counts the bytes.
type digest struct {
	hash.Hash
	size int64
}

func (d *digest) Write(p []byte) (int, error) {
	d.size += int64(len(p))
	return d.Hash.Write(p)
}

func (d *digest) String() string { return fmt.Sprintf("%x", d.Sum(nil)) }

// TestBothOutputs tells standard output from standard error.
func TestBothOutputs(t *testing.T) {
	s := begin(t)
	result := s.run(nil, "sh", "-c", "echo out; echo err >&2")
	s.must(result.Err())
	if result.Stdout != "out\n" || result.Stderr != "err\n" {
		t.Errorf("standard output %q, standard error %q", result.Stdout, result.Stderr)
	}
}

// TestLastBytes has output that is written just before the end of a process; none of it is lost.
func TestLastBytes(t *testing.T) {
	s := begin(t)
	const size = 3 << 20
	if got := s.output(nil, "dd", "if=/dev/zero", fmt.Sprintf("bs=%d", size), "count=1", "status=none"); len(got) != size {
		t.Errorf("%d bytes arrived, want %d", len(got), size)
	}
}

// TestSameFIFO gives a container one FIFO for standard output and standard error.
func TestSameFIFO(t *testing.T) {
	s := begin(t)
	path := s.fifo()
	c := s.create(nil, "sh", "-c", "echo out; echo err >&2")
	reader := s.openFIFO(path)
	c.createTask(&tasks.CreateTaskRequest{Stdout: path, Stderr: path})
	c.startTask("")

	lines := bufio.NewReader(reader)
	var got []string
	for range 2 {
		line, err := lines.ReadString('\n')
		s.must(err)
		got = append(got, line)
	}
	slices.Sort(got) // two streams have no order between them
	if want := []string{"err\n", "out\n"}; !slices.Equal(got, want) {
		t.Errorf("read %q, want %q", got, want)
	}
	if code := c.wait(""); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// TestSlowReader has a process whose output is not read. It does not get ahead of its reader, and the others go on.
func TestSlowReader(t *testing.T) {
	s := begin(t)
	path := s.fifo()
	c := s.create(nil, "sh", "-c", "yes | head -c 8388608; echo; echo the end")
	reader := s.openFIFO(path)
	c.createTask(&tasks.CreateTaskRequest{Stdout: path, Stderr: path})
	c.startTask("")
	result := c.exec(nil, "echo", "beside")
	s.must(result.Err())
	if result.Stdout != "beside\n" {
		t.Errorf("exec wrote %q", result.Stdout)
	}

	lines := bufio.NewReader(reader)
	var size int
	for {
		line, err := lines.ReadString('\n')
		s.must(err)
		if line == "the end\n" {
			break
		}
		size += len(line)
	}
	if want := 8<<20 + 1; size != want {
		t.Errorf("%d bytes arrived before the end, want %d", size, want)
	}
	c.wait("")
}
