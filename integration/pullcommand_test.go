package integration

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

// TestPullCommand pulls an image as a person does, at a terminal that shows how far it is.
func TestPullCommand(t *testing.T) {
	s := limpetOnly(t)
	pod, images, files := s.imageWorld()
	name := images.push("pulled")
	s.configure(map[string]any{"guest_data": files})
	c := s.sleeper("--with-ns", "network:/run/netns/"+pod)

	result := s.limpet("images", c.id)
	s.must(result.Err())
	if lines := strings.Count(result.Stdout, "\n"); lines != 1 {
		t.Errorf("there are images: %s", result.Stdout)
	}
	failed := s.limpet("pull", c.id, images.host+"/none")
	if failed.Code != 1 {
		t.Errorf("exit status %d for an image that is not there", failed.Code)
	}
	wantError(t, failed.Stderr, images.host+"/none")

	release := make(chan struct{})
	images.spoiled(func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		<-release // a slow registry
		return w
	}, func() {
		terminal := s.terminal(s.limpetCmd("pull", c.id, name))
		time.AfterFunc(1500*time.Millisecond, func() { close(release) }) // the bar waits for a second
		ctx, cancel := context.WithTimeout(s.ctx, terminalTimeout)
		defer cancel()
		for _, shown := range []string{`sha256:[0-9a-f]{12} +\d+%`, `sha256:[0-9a-f]{64}\s`} {
			if _, err := terminal.Expect(ctx, shown); err != nil {
				t.Error(err)
			}
		}
		if code := terminal.Wait(); code != 0 {
			t.Errorf("exit status %d", code)
		}
	})
	result = s.limpet("images", c.id)
	s.must(result.Err())
	s.wantRow(result.Stdout, name, "sha256:")
	var list []protocol.ImageInfo
	s.limpetJSON(&list, "images", "--json", c.id)
	if len(list) != 1 || list[0].LayerCount != 1 {
		t.Errorf("got %+v", list)
	}
	again := s.limpet("pull", c.id, name) // there already
	s.must(again.Err())
	if again.Stdout != list[0].Digest+"\n" || again.Stderr != "" {
		t.Errorf("without a terminal: %q, %q", again.Stdout, again.Stderr)
	}
}
