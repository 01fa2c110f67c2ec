package integration

import (
	"strings"
	"testing"
)

// TestAgentCommand speaks with the agent as a person does.
func TestAgentCommand(t *testing.T) {
	s := limpetOnly(t)
	c := s.sleeper()
	result := s.limpet("agent", "ping", "--count", "3", c.id)
	s.must(result.Err())
	if n := strings.Count(result.Stdout, "the agent of "+c.id+" answers: protocol version 1, "); n != 3 {
		t.Errorf("%d answers: %s", n, result.Stdout)
	}
	for request, want := range map[string]string{
		`{"method":"ping"}`: `{"status":"pong","version":1}` + "\n",
		`{"method":"file_read","path":"/proc/sys/kernel/ostype"}`: `{"status":"data_chunk","data":"TGludXgK","done":true}` + "\n",
	} {
		result := s.limpet("agent", "raw", c.id, request)
		if result.Stdout != want || result.Err() != nil {
			t.Errorf("%s is answered by %s, want %s: %v", request, result.Stdout, want, result.Err())
		}
	}
	failed := s.limpet("agent", "raw", c.id, `{"method":"dance"}`)
	if failed.Code != 1 || !strings.Contains(failed.Stdout, `"code":"INVALID_REQUEST"`) || failed.Stderr != "" {
		t.Errorf("an unknown request: %+v", failed)
	}
	lines := s.limpetCmd("agent", "raw", c.id, "-")
	lines.Stdin = strings.NewReader(`{"method":"ping"}

		{"method":"vm_exec","command":["crun","--version"],"interactive":true}
		{"method":"ping"}`)
	text, err := lines.Output()
	if err != nil {
		t.Errorf("a conversation: %v", err)
	}
	pong := `{"status":"pong","version":1}`
	if got := string(text); !strings.HasPrefix(got, pong+"\n"+`{"status":"started"}`+"\n"+`{"status":"stdout",`) ||
		!strings.HasSuffix(got, `{"status":"exited","exit_code":0}`+"\n"+pong+"\n") {
		t.Errorf("a conversation: %s", got)
	}
}
