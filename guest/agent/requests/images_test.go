package requests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/agenttest"
	"github.com/limpet-run/limpet/guest/protocol"
)

// imageProgram makes this test program one for images, which does what the image's name says.
const imageProgram = "LIMPET_TEST_IMAGE_PROGRAM"

func actAsImageProgram() {
	message, err := protocol.ReadMessage(os.Stdin)
	if err != nil {
		os.Exit(3)
	}
	request, err := protocol.AgentRequests.DecodeEnvelope(message)
	if err != nil {
		os.Exit(4)
	}
	say := func(answer protocol.AgentResponse) {
		message, err := protocol.AgentResponses.Encode(answer)
		if err == nil {
			err = protocol.WriteMessage(os.Stdout, message)
		}
		if err != nil {
			os.Exit(5)
		}
	}
	switch image := request.Body.(protocol.PullRequest).Image; image {
	case "good":
		say(protocol.ProgressResponse{Message: "trace " + *request.TraceID + os.Getenv("SSL_CERT_FILE")})
		say(protocol.OKResponse{})
	case "mute":
	case "nonsense":
		fmt.Print("what is a frame?")
	case "dies":
		say(protocol.ProgressResponse{Message: "begun"})
		os.Exit(7)
	case "slow", "stubborn":
		cancelled := make(chan os.Signal, 1)
		signal.Notify(cancelled, unix.SIGTERM)
		say(protocol.ProgressResponse{Message: "begun"})
		<-cancelled
		say(protocol.ProgressResponse{Message: "cancelled"})
		for image == "stubborn" {
			time.Sleep(time.Hour)
		}
	}
	os.Exit(0)
}

func TestImageProgram(t *testing.T) {
	agenttest.NeedRoot(t)
	t.Setenv(imageProgram, "1")
	t.Setenv("SSL_CERT_FILE", "")
	p := &ImageProgram{Path: "/proc/self/exe", Reaper: agenttest.Reaper(), Log: os.Stderr, Logger: slog.New(slog.DiscardHandler),
		CancelTimeout: 50 * time.Millisecond}
	for name, test := range map[string]struct {
		cancel bool // the client goes when the program has begun
		said   string
		err    string
	}{
		"good":     {false, "progress trace t1, ok", ""},
		"mute":     {false, "", "has not answered"},
		"nonsense": {false, "", "2003329396 bytes"},
		"dies":     {false, "progress begun", "status 7"},
		"slow":     {true, "progress begun, progress cancelled", "the client is gone"},
		"stubborn": {true, "progress begun, progress cancelled", "the client is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			var said []string
			request := protocol.Envelope[protocol.AgentRequest]{TraceID: new("t1"), Body: protocol.PullRequest{Image: name}}
			err := p.Do(ctx, request, func(answer protocol.AgentResponse) error {
				text := protocol.AgentResponses.Name(answer)
				if progress, ok := answer.(protocol.ProgressResponse); ok {
					text += " " + progress.Message
					if test.cancel {
						cancel(errors.New("the client is gone"))
					}
				}
				said = append(said, text)
				return nil
			})
			if got := strings.Join(said, ", "); got != test.said {
				t.Errorf("said %q, want %q", got, test.said)
			}
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
		})
	}
	for want, certificates := range map[string]func(context.Context) (string, error){
		"trace t2/file": func(context.Context) (string, error) { return "/file", nil },
		"trace t2":      func(context.Context) (string, error) { return "", errors.New("none") },
	} {
		p.Certificates = certificates
		request := protocol.Envelope[protocol.AgentRequest]{TraceID: new("t2"), Body: protocol.PullRequest{Image: "good"}}
		err := p.Do(t.Context(), request, func(answer protocol.AgentResponse) error {
			if progress, ok := answer.(protocol.ProgressResponse); ok && progress.Message != want {
				t.Errorf("said %q, want %q", progress.Message, want)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	p.Path = "/no/such/program"
	if err := p.Do(t.Context(), protocol.Envelope[protocol.AgentRequest]{Body: protocol.ListImagesRequest{}}, nil); err == nil {
		t.Error("a program that does not exist has answered")
	}
}
