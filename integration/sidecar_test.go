package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/integration/harness"
)

// commandDoor is the path of the door for commands of a container's sandbox.
func (c container) commandDoor() string {
	c.Helper()
	dir, err := os.Readlink(filepath.Join(daemon.Bundle(c.id), "limpet-state"))
	c.must(err)
	return filepath.Join(dir, "exec.sock")
}

// sidecar prepares a `limpet sidecar exec` at a socket.
func (s *scope) sidecar(socket string, flags []string, command ...string) *exec.Cmd {
	args := append([]string{"sidecar", "exec", "--connect", socket}, flags...)
	args = append(append(args, "--"), command...)
	return exec.CommandContext(s.ctx, daemon.Build.Path("bin/limpet"), args...)
}

// TestCommandDoor runs commands in a sandbox with the caller's own descriptors.
func TestCommandDoor(t *testing.T) {
	c := limpetOnly(t).sleeper("--env", "FRUIT=fig", "--cwd", "/etc")
	door := c.commandDoor()
	for _, test := range []struct {
		name    string
		flags   []string
		command []string
		code    int
		stdout  string
		stderr  string // what is in it
	}{
		{"streams", nil, []string{"sh", "-c", "echo $FRUIT; pwd; echo err >&2; exit 9"}, 9, "fig\n/etc\n", "err\n"},
		{"options", []string{"--env", "FRUIT=date,nut", "--workdir", "/tmp", "--setuid", "77", "--setgid", "88"},
			[]string{"sh", "-c", "echo $FRUIT; pwd; id -u; id -g"}, 0, "date,nut\n/tmp\n77\n88\n", ""},
		{"signal", nil, []string{"sh", "-c", "kill -9 $$"}, 137, "", ""},
		{"missing program", nil, []string{"no-such-program"}, 127, "", "no-such-program"},
		{"no program", nil, []string{"/etc/passwd"}, 126, "", "/etc/passwd"},
		{"missing directory", []string{"--workdir", "/nowhere"}, []string{"true"}, 127, "", "/nowhere"},
		{"container", []string{"--container", c.id}, []string{"sh", "-c", "env | grep -c LIMPET"}, 1, "0\n", ""},
		{"missing container", []string{"--container", "nobody"}, []string{"true"}, 127, "", "nobody"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := c.sidecar(door, test.flags, test.command...)
			result := harness.Run(cmd)
			if result.Code != test.code || result.Stdout != test.stdout || !strings.Contains(result.Stderr, test.stderr) {
				t.Errorf("exit code %d, standard output %q, standard error %q", result.Code, result.Stdout, result.Stderr)
			}
		})
	}
	cmd := c.sidecar(door, nil, "head", "-n", "2")
	cmd.Stdin = strings.NewReader("one\ntwo\nthree\n")
	if result := harness.Run(cmd); result.Stdout != "one\ntwo\n" || result.Err() != nil {
		t.Errorf("with an input: %q, %v", result.Stdout, result.Err())
	}
}

// TestCommandDoorTerminal has a terminal in a sandbox through the caller's own.
func TestCommandDoorTerminal(t *testing.T) {
	c := limpetOnly(t).sleeper()
	sh := shell{c.scope, c.terminal(c.sidecar(c.commandDoor(), []string{"--env", "PS1=" + prompt}, "sh"))}
	sh.expect(prompt)
	sh.command("test -t 0 && test -t 1 && test -t 2 && echo a''ll", `all\s`)
	awaitSize(sh, "24 80")
	sh.must(sh.Resize(132, 43))
	awaitSize(sh, "43 132")
	sh.must(sh.Type("sh -c 'echo st\"\"arted; exec sleep 1000000'\n"))
	sh.expect(`started\s`)
	sh.must(sh.Type("\x03")) // Ctrl-C
	sh.expect(prompt)
	sh.command("echo status $?", `status 130\s`)
	sh.exit("5", 5)
}
