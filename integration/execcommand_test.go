package integration

import (
	"strings"
	"testing"

	"github.com/limpet-run/limpet/integration/harness"
)

// TestExecCommand runs commands in containers as a person does, and has their exit codes and streams.
func TestExecCommand(t *testing.T) {
	s := limpetOnly(t)
	c := s.sleeper("--env", "FRUIT=fig", "--cwd", "/etc")
	second := c.joined()
	for _, test := range []struct {
		args, stdin    string
		code           int
		stdout, stderr string // stderr: a part of it
	}{
		{c.id + " true", "", 0, "", ""},
		{c.id + " -- sh -c echo$IFS$FRUIT;pwd;echo$IFS'no'>&2;exit$IFS'7'", "", 7, "fig\n/etc\n", "no"},
		{c.id + " sh -c kill$IFS-9$IFS$$", "", 137, "", ""},
		{"-i " + c.id + " cat", "text", 0, "text", ""},
		{c.id + " cat", "not read", 0, "", ""},
		{"--env FRUIT=date --workdir /tmp --user 12:34 " + c.id + " sh -c echo$IFS$FRUIT$PWD;id$IFS-u;id$IFS-g", "", 0, "date/tmp\n12\n34\n", ""},
		{second.id + " sh -c echo$IFS$FRUIT", "", 0, "\n", ""},
		{c.id + "/" + second.id + " uname", "", 0, "Linux\n", ""},
		{c.id + " nothing", "", 127, "", "nothing"},
		{c.id + " /etc", "", 126, "", "/etc"},
		{"-it " + c.id + " true", "", 125, "", "--tty"},
		{"none true", "", 125, "", "limpet ps"},
		{"--user me " + c.id + " true", "", 2, "", "UID"},
		{c.id, "", 2, "", "COMMAND"},
	} {
		cmd := s.limpetCmd("exec", strings.Fields(test.args)...)
		cmd.Stdin = strings.NewReader(test.stdin)
		result := harness.Run(cmd)
		if result.Code != test.code || result.Stdout != test.stdout || !strings.Contains(result.Stderr, test.stderr) ||
			test.stderr == "" && result.Stderr != "" {
			t.Errorf("%s: exit status %d, %q, %q", test.args, result.Code, result.Stdout, result.Stderr)
		}
	}
}

// TestExecTerminal has a shell at a terminal: its size and its changes, Ctrl-C, its exit code.
func TestExecTerminal(t *testing.T) {
	s := limpetOnly(t)
	c := s.sleeper()
	sh := shell{s, s.terminal(s.limpetCmd("exec", "-it", "--env", "PS1="+prompt, c.id, "sh"))}
	sh.expect(prompt)
	sh.command("stty size", "24 80")
	s.must(sh.Resize(100, 30))
	awaitSize(sh, "30 100")
	sh.must(sh.Type("sh -c 'echo st\"\"arted; exec sleep 1000000'\n"))
	sh.expect(`started\s`)
	sh.must(sh.Type("\x03"))
	sh.expect(prompt)
	sh.exit("9", 9)
}
