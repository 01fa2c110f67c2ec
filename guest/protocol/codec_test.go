package protocol

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func ref[T any](v T) *T { return &v }

// Messages and fields that limpet adds to the vectors' ones.
func TestMessagesRoundTrip(t *testing.T) {
	token := Token(bytes.Repeat([]byte{0xab}, 32))
	tests := []struct {
		message HostMessage
		json    string
	}{
		{Auth{Token: "t", ProtocolVersion: 1, Clock: ref(int64(-5)), Entropy: []byte{1, 2}, Ack: 9},
			`{"type":"auth","token":"t","protocol_version":1,"clock":-5,"entropy":"AQI=","ack":9}`},
		{Run{RequestID: 1, Command: []string{"sh"}, Env: []Pair{{"A", "<&>\u2028"}}, Spec: json.RawMessage(`{"a":[1,null]}`),
			Streams: &Streams{Stdout: &token}, Size: &Size{80, 24}, Terminal: true},
			`{"type":"run","request_id":1,"command":["sh"],"env":[["A","<&>` + "\u2028" + `"]],"workdir":null,` +
				`"spec":{"a":[1,null]},"terminal":true,"streams":{"stdout":"` + strings.Repeat("ab", 32) + `"},"size":{"cols":80,"rows":24}}`},
		{Pod{Hostname: "barnacle", Sysctls: []Pair{{"kernel.shmmax", "1"}}, UIDMappings: []IDMapping{{0, 100000, 65536}}},
			`{"type":"pod","hostname":"barnacle","sysctls":[["kernel.shmmax","1"]],` +
				`"uid_mappings":[{"container_id":0,"host_id":100000,"size":65536}]}`},
		{Pod{}, `{"type":"pod"}`},
		{Resolver{Port: 6002, Token: Token{2}}, `{"type":"resolver","port":6002,"token":"02` + strings.Repeat("0", 62) + `"}`},
		{SSHAgent{ContainerID: "c", Port: 6001, Token: Token{1}},
			`{"type":"ssh_agent","container_id":"c","port":6001,"token":"01` + strings.Repeat("0", 62) + `"}`},
		{Ping{Data: 1<<64 - 1}, `{"type":"ping","data":18446744073709551615}`},
		{Bye{}, `{"type":"bye"}`},
		{Data{Name: "resolv.conf", Content: []byte("x")}, `{"type":"data","name":"resolv.conf","content":"eA=="}`},
	}
	for _, test := range tests {
		text, err := HostMessages.Encode(test.message)
		if err != nil || string(text) != test.json {
			t.Errorf("encode: %s, %v\n  want: %s", text, err, test.json)
		}
		if got, err := HostMessages.Decode([]byte(test.json)); err != nil || !reflect.DeepEqual(got, test.message) {
			t.Errorf("decode %s: %+v, %v", test.json, got, err)
		}
	}
}

func TestDecodeIsStrict(t *testing.T) {
	const run = `{"type":"run","request_id":1,"command":["x"],"env":[]`
	accept := []string{
		run + `,"workdir":null,"streams":null,"size":null}`,
		run + `,"streams":{"stdin":null}}`,
		run + `,"unknown":{"a":[1e999]}}`,
		`{"ack":1,"token":"x","protocol_version":1,"type":"auth"}`,
		` {"type" : "stop", "timeout_ms":0 } `,
	}
	reject := map[string]string{
		run + `,"terminal":null}`:                                                          "terminal: is null, want a bool",
		run + `,"terminal":1}`:                                                             "terminal: is number, want a bool",
		run + `,"spec":null}`:                                                              "spec: is null",
		run + `,"size":{"cols":80}}`:                                                       "size: rows is missing",
		run + `,"size":{"cols":65536,"rows":1}}`:                                           "size: cols: want uint16: value out of range",
		run + `,"size":[80,24]}`:                                                           "size: is [, want an object",
		run + `,"streams":{"stdin":"ab"}}`:                                                 "token of 2 characters",
		run + `,"streams":{"stdin":"` + strings.Repeat("zz", 32) + `"}}`:                   "not hexadecimal",
		run + `,"u":1,"u":2}`:                                                              "duplicate object member name",
		`{"type":"run","request_id":-0,"command":[],"env":[]}`:                             "is -0",
		`{"type":"run","request_id":1e0,"command":[],"env":[]}`:                            "request_id: want uint64: invalid syntax",
		`{"type":"run","request_id":1,"command":[null],"env":[]}`:                          "command: 0: is null, want a string",
		`{"type":"run","request_id":1,"command":{},"env":[]}`:                              "command: is {, want an array",
		`{"type":"run","request_id":1,"command":[],"env":[["a"]]}`:                         "env: 0: is ], want a string",
		`{"type":"reseed","entropy":"AQ\n=="}`:                                             "line ends",
		`{"type":"stop","timeout_ms":1,"timeout_ms":1}`:                                    "duplicate",
		`{"type":"pod","uid_mappings":[{"container_id":0,"host_id":4294967296,"size":1}]}`: "host_id: want uint32",
		`{"type":"pod","uid_mappings":[{"container_id":0,"host_id":1}]}`:                   "size is missing",
		`{"type":"pod","sysctls":null}`:                                                    "sysctls: is null",
		`{"type":"resolver","token":"` + strings.Repeat("00", 32) + `"}`:                   "port is missing",
		`{"type":"resolver","port":6002}`:                                                  "token is missing",
		`["stop"]`:                                                                         "want an object",
		// Only a message without fields may be a bare name.
		`["ping"]`:                         "want an object",
		`["ping",1]`:                       "array of more than a name",
		`[]`:                               "want a string",
		`{"type":"stop","timeout_ms":1}{}`: "nothing after",
		`{"type":"stop","timeout_ms":1`:    "unexpected EOF",
		`{"type":"` + strings.Repeat("x", 100) + `"}`: `unknown type "` + strings.Repeat("x", 64) + `..."`,
		"{\"type\":\"mount\",\"source\":\"\xff\"}":    "invalid UTF-8",
		`null`: "want an object",
	}
	for _, text := range accept {
		if _, err := HostMessages.Decode([]byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, want := range reject {
		if m, err := HostMessages.Decode([]byte(text)); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v; want %q", text, m, err, want)
		}
	}
}

func TestEveryCommandAndNotificationIsAMessage(t *testing.T) {
	for name := range hostMessages {
		_, command := commandOpcodes[name]
		_, notification := notificationOpcodes[name]
		if !command && !notification && name != "pong" {
			t.Errorf("%s has no opcode", name)
		}
	}
	for _, name := range commandNames {
		if hostMessages[name] == nil {
			t.Errorf("command %s is no message", name)
		}
	}
	for _, name := range notificationNames {
		if guestMessages[name] == nil {
			t.Errorf("notification %s is no message", name)
		}
	}
}

func TestErrorKinds(t *testing.T) {
	for code, kind := range map[Code]error{
		CodeNotFound: errdefs.ErrNotFound, CodeFailedPrecondition: errdefs.ErrFailedPrecondition, CodeInternal: errdefs.ErrInternal,
		CodeInvalidRequest: errdefs.ErrInvalidArgument, CodeNotImplemented: errdefs.ErrNotImplemented,
	} {
		sent := NewError(fmt.Errorf("thing: %w", kind))
		if sent.Code != code {
			t.Errorf("%v is sent as %s", kind, sent.Code)
		}
		payload, err := sent.encode()
		if err != nil {
			t.Fatal(err)
		}
		received, err := decodeError(payload)
		if err != nil || !errors.Is(received, kind) || received.Message != sent.Message {
			t.Errorf("%s became %+v, %v", payload, received, err)
		}
	}
	special := NewError(fmt.Errorf("run x: %w", &Error{Message: "y", Code: CodeExecFailed}))
	if special.Code != CodeExecFailed || special.Message != "run x: y" || !errors.Is(special, errdefs.ErrInternal) {
		t.Errorf("%+v", special)
	}
	if e := NewError(errors.New(strings.Repeat("\xff", 1<<20))); len(e.Message) > 2*maxErrorMessage || e.Code != CodeInternal {
		t.Errorf("%d bytes, %s", len(e.Message), e.Code)
	}
	if _, err := decodeError([]byte(`{"msg":"a"} x`)); err == nil {
		t.Error("text after an error was ignored")
	}
}

// What the guest sends may cost the host memory in proportion to its length only.
func TestDecodingCostsInProportion(t *testing.T) {
	const n = 1 << 16
	var names strings.Builder
	for i := range n {
		fmt.Fprintf(&names, `"%x":0,`, i)
	}
	for name, text := range map[string]string{
		"empty texts":   `{"type":"run","command":[` + strings.Repeat(`"",`, n) + `""]}`,
		"empty pairs":   `{"type":"run","env":[` + strings.Repeat(`["",""],`, n) + `["",""]]}`,
		"unknown names": `{"type":"run",` + names.String() + `"x":0}`,
		"depth":         `{"type":"run","x":` + strings.Repeat(`[`, n),
	} {
		cost := allocated(func() {
			if _, err := HostMessages.Decode([]byte(text)); err == nil {
				t.Errorf("%s: decoded", name)
			}
		})
		if cost > maxCostPerByte*uint64(len(text)) {
			t.Errorf("%s: %d bytes allocated for %d bytes", name, cost, len(text))
		}
	}
}

// TestWriteCompleted writes the bytes that the codec would have, in writes that every vsock passes.
func TestWriteCompleted(t *testing.T) {
	for _, result := range []CompletedResponse{
		{Stdout: []byte{}, Stderr: []byte{}},
		{ExitCode: -1, Stdout: []byte("a"), Stderr: []byte("bc")},
		{ExitCode: 255, Stdout: make([]byte, 3*MaxWrite), Stderr: make([]byte, MaxWrite+1)},
	} {
		for _, traceID := range []*string{nil, new("tr\"ace")} {
			message, err := AgentResponses.EncodeEnvelope(Envelope[AgentResponse]{TraceID: traceID, Body: result})
			if err != nil {
				t.Fatal(err)
			}
			var want bytes.Buffer
			if err := WriteMessage(&want, message); err != nil {
				t.Fatal(err)
			}
			var got smallWrites
			if err := WriteCompleted(&got, traceID, result); err != nil || !bytes.Equal(got.Bytes(), want.Bytes()) {
				t.Errorf("%v: %.200q, want %.200q", err, got.Bytes(), want.Bytes())
			}
			if got.largest > MaxWrite {
				t.Errorf("a write of %d bytes", got.largest)
			}
		}
	}
	err := WriteCompleted(io.Discard, nil, CompletedResponse{Stdout: make([]byte, MaxPayload)})
	if _, ok := errors.AsType[*MessageTooLargeError](err); !ok {
		t.Errorf("too much output: %v", err)
	}
}

// smallWrites notes how long the longest write was.
type smallWrites struct {
	bytes.Buffer
	largest int
}

func (w *smallWrites) Write(p []byte) (int, error) {
	w.largest = max(w.largest, len(p))
	return w.Buffer.Write(p)
}
