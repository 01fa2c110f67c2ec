package integration

import (
	"bufio"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/integration/harness"
)

// sshAgentAnswer is how long the answer of the agent of tests is: more than what a vsock connection takes at once.
const sshAgentAnswer = 100_000

// fakeSSHAgent is an ssh-agent of the test's, which has many keys. It returns its socket.
func (s *scope) fakeSSHAgent() string {
	s.Helper()
	path := filepath.Join(s.TempDir(), "agent")
	listener, err := net.Listen("unix", path)
	s.must(err)
	s.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for request := make([]byte, 5); ; { // of the length 1
					if _, err := io.ReadFull(conn, request); err != nil {
						return
					}
					answer := append([]byte{0, sshAgentAnswer >> 16, sshAgentAnswer >> 8 & 0xff, sshAgentAnswer & 0xff, request[4] + 1},
						make([]byte, sshAgentAnswer-1)...)
					if _, err := conn.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return path
}

// TestSSHAgent lets a container that runs use an agent of the host's until the command ends.
func TestSSHAgent(t *testing.T) {
	s := limpetOnly(t)
	program, err := harness.Program(s.ctx, s.TempDir(), "ask-agent")
	s.must(err)
	c := s.sleeper("--env", "SSH_AUTH_SOCK=/dev/ssh-agent", "--mount", "type=bind,src="+program+",dst=/bin/ask-agent,options=bind:ro")
	ask := func() harness.Result { return c.exec(nil, "ask-agent") }
	if result := ask(); result.Code == 0 {
		t.Errorf("an agent that nobody asked for answered: %s", result.Stdout)
	}

	command := exec.CommandContext(s.ctx, daemon.Build.Path("bin/limpet"), "ssh-agent", "--config", daemon.ConfigPath(),
		"--socket", s.fakeSSHAgent(), c.id)
	told, err := command.StderrPipe()
	s.must(err)
	s.must(command.Start())
	if line, err := bufio.NewReader(told).ReadString('\n'); !strings.Contains(line, "SSH_AUTH_SOCK=/dev/ssh-agent") {
		t.Errorf("it says %q, %v", line, err)
	}
	for range 2 {
		if result := ask(); strings.TrimSpace(result.Stdout) != "100000" {
			t.Errorf("the agent is not reached: %v: %s", result.Err(), result.Stdout)
		}
	}
	s.must(command.Process.Signal(unix.SIGINT))
	if err := command.Wait(); err != nil {
		t.Errorf("limpet ssh-agent: %v", err)
	}
	for c.exec(nil, "ls", "/dev/ssh-agent").Code == 0 { // the sandbox takes it away after the command has ended
	}
	if result := ask(); result.Code == 0 {
		t.Error("the agent is still reached")
	}
}
