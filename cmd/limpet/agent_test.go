package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/guest/protocol"
)

// TestConverse speaks with an agent that expects requests and answers each.
func TestConverse(t *testing.T) {
	const ping, pong = `{"method":"ping"}`, `{"status":"pong","version":1}`
	const input = `{"method":"stdin","data":""}`
	type exchange struct {
		request string // what the agent expects; empty: nothing before it answers
		answers []string
	}
	for _, test := range []struct {
		name     string
		requests string
		agent    []exchange
		want     string
		err      string
	}{
		{"nothing", "\n \n", nil, "", ""},
		{"two", ping + "\n\n" + ping, []exchange{{ping, []string{pong}}, {ping, []string{pong}}}, pong + "\n" + pong + "\n", ""},
		{"progress and pieces", "a\nb", []exchange{
			{"a", []string{`{"status":"progress","message":"m"}`, `{"status":"ok"}`}},
			{"b", []string{`{"status":"data_chunk","data":"","done":false}`, `{"status":"data_chunk","data":"","done":true}`}},
		}, `{"status":"progress","message":"m"}` + "\n" + `{"status":"ok"}` + "\n" + `{"status":"data_chunk","data":"","done":false}` + "\n" +
			`{"status":"data_chunk","data":"","done":true}` + "\n", ""},
		{"input", "run\n" + input + "\n" + input + "\n" + ping, []exchange{
			{"run", []string{`{"status":"started"}`}},
			{input, []string{`{"status":"error"}`}}, {input, []string{`{"status":"stdout"}`, `{"status":"exited"}`}}, {ping, []string{pong}},
		}, `{"status":"started"}` + "\n" + `{"status":"error"}` + "\n" + `{"status":"stdout"}` + "\n" + `{"status":"exited"}` + "\n" +
			pong + "\n", errFailed.Error()},
		{"command that does not end", "run\n" + ping, []exchange{
			{"run", []string{`{"status":"started"}`, `{"status":"error","code":"WAIT_FAILED"}`}}, {ping, []string{pong}},
		}, `{"status":"started"}` + "\n" + `{"status":"error","code":"WAIT_FAILED"}` + "\n" + pong + "\n", errFailed.Error()},
		{"error, and on", "x\n" + ping, []exchange{{"x", []string{`{"status":"error"}`}}, {ping, []string{pong}}},
			`{"status":"error"}` + "\n" + pong + "\n", errFailed.Error()},
		{"gone", ping, []exchange{{ping, nil}}, "", "closed the connection"},
		{"nonsense", ping, []exchange{{ping, []string{"pong"}}}, "", "no JSON"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			go func() {
				defer theirs.Close()
				for _, exchange := range test.agent {
					if request, err := protocol.ReadMessage(theirs); err != nil || string(request) != exchange.request {
						t.Errorf("the agent got %q, %v; want %q", request, err, exchange.request)
						return
					}
					if exchange.answers == nil {
						return
					}
					for _, answer := range exchange.answers {
						if err := protocol.WriteMessage(theirs, []byte(answer)); err != nil {
							t.Error(err)
						}
					}
				}
				_, _ = theirs.Read(make([]byte, 1)) // until the test's end
			}()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			agent := client.NewRequests(ours, "")
			defer agent.Close()
			var text bytes.Buffer
			err := converse(ctx, agent, readLines(ctx, strings.NewReader(test.requests)), &text)
			if text.String() != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %q, %v", text.String(), err)
			}
		})
	}
}

func TestReadAnswer(t *testing.T) {
	line, answer, err := readAnswer([]byte("{ \"status\" : \"x\",\n\"message\":\"\u00e9\u009b2J\U000e0001\", \"done\": true}"))
	want := `{"status":"x","message":"é\u009b2J\udb40\udc01","done":true}`
	if line != want || answer != (answered{Status: "x", Done: true}) || err != nil {
		t.Errorf("got %s, %+v, %v", line, answer, err)
	}
	if _, _, err := readAnswer([]byte("{\"status\":\"\x1b\"}")); err == nil || errors.Is(err, errFailed) {
		t.Errorf("a control character: %v", err)
	}
}
