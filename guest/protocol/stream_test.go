package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

var preambles = map[string]Preamble{
	"danger noodle\x00": {Kind: StreamContainerd},
	"danger noodle\x01": {Kind: StreamOutput},
	"danger noodle\x40" + strings.Repeat("\x07", 32): {Kind: StreamProcess, Token: Token(bytes.Repeat([]byte{7}, 32))},
	"danger noodle\x41\x1f\x90":                      {Kind: StreamTCP, Port: 8080},
	"danger noodle\x42\x00\x02/s":                    {Kind: StreamUnix, Path: "/s"},
	"danger noodle\x43":                              {Kind: StreamListeners},
	"danger noodle\x44":                              {Kind: StreamContainerdDuplex},
	"danger noodle\x45":                              {Kind: StreamOutputDuplex},
}

func TestPreamble(t *testing.T) {
	for text, want := range preambles {
		r := strings.NewReader(text + "early")
		got, err := ReadPreamble(r)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "early" {
			t.Errorf("%q: left %q of the data that follows", text, rest)
		}
		var b sizes
		if err := WritePreamble(&b, want); err != nil || b.String() != text || b.most != len(text) {
			t.Errorf("%q: written %q, at most %d at once, %v", text, b.String(), b.most, err)
		}
		for n := range text {
			if _, err := ReadPreamble(strings.NewReader(text[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%q: %v", text[:n], err)
			}
		}
	}
}

func TestPreambleRefused(t *testing.T) {
	for _, text := range []string{"danger noodles", "danger noodle\x02", "danger noodle\x42\x00\x00", "GET / HTTP/1.1\r\n"} {
		if p, err := ReadPreamble(strings.NewReader(text)); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %+v, %v", text, p, err)
		}
	}
	for _, p := range []Preamble{{Kind: 2}, {Kind: StreamUnix}, {Kind: StreamUnix, Path: strings.Repeat("x", 1<<16)}} {
		if err := WritePreamble(io.Discard, p); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("kind %d, path of %d: %v", p.Kind, len(p.Path), err)
		}
	}
}

func TestStatus(t *testing.T) {
	for _, failure := range []error{nil, errors.New("no such token"), errors.New(strings.Repeat("long ", 1<<15))} {
		var b bytes.Buffer
		if err := WriteStatus(&b, failure); err != nil {
			t.Fatal(err)
		}
		b.WriteString("data")
		err := ReadStatus(&b)
		if b.String() != "data" {
			t.Errorf("left %.20q", b.String())
		}
		switch {
		case failure == nil && err != nil:
			t.Error(err)
		case failure != nil && (!errors.Is(err, ErrStreamRefused) || !strings.Contains(err.Error(), failure.Error()[:13])):
			t.Errorf("%.50v became %.50v", failure, err)
		}
	}
	for _, text := range []string{"", "\x01", "\x01\x00", "\x01\x00\x05nope"} {
		if err := ReadStatus(strings.NewReader(text)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := ReadStatus(strings.NewReader("\x02")); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Error(err)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	token := Token(bytes.Repeat([]byte{0xab}, 32))
	auth := Auth{Token: "hunter2"}
	run := Run{Streams: &Streams{Stdin: &token}}
	pull := PullRequest{Auth: &RegistryAuth{Password: "hunter2"}}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, value := range []any{token, &token, auth, *run.Streams, *pull.Auth} {
			text := fmt.Sprintf(format, value)
			if strings.Contains(text, "hunter2") || strings.Contains(text, "abab") || strings.Contains(text, "171") {
				t.Errorf("%s of %T: %s", format, value, text)
			}
		}
	}
	if a, b := NewToken(), NewToken(); a == b || a == (Token{}) {
		t.Error("tokens are not random")
	}
}
