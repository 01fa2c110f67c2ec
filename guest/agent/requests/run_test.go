package requests

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/guest/protocol"
)

// withImage gives the guest an image "box", which is busybox, and returns the root directory that its overlays have.
func (g *guest) withImage(info protocol.ImageInfo) string {
	g.t.Helper()
	if os.Getenv("LIMPET_BUILD") == "" {
		g.t.Skip("LIMPET_BUILD does not name a directory with a guest image's parts")
	}
	rootfs := filepath.Join(g.server.Containers.Overlays, "workload", "rootfs")
	for _, dir := range []string{"bin", "proc", "dev", "sys", "etc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(rootfs, dir), 0o755); err != nil {
			g.t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		g.t.Fatal(err)
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(rootfs, "bin/busybox"), busybox, 0o755),
		os.WriteFile(filepath.Join(rootfs, "etc/passwd"), []byte("root:x:0:0::/:/bin/sh\nann:x:1000:1001::/:/bin/sh\n"), 0o644),
		os.WriteFile(filepath.Join(rootfs, "etc/group"), []byte("root:x:0:\nann:x:1001:\nwheel:x:10:ann\n"), 0o644),
	)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, applet := range []string{"sh", "cat", "echo", "id", "sleep", "hostname", "ls", "pwd", "kill", "env", "tty"} {
		if err := os.Symlink("busybox", filepath.Join(rootfs, "bin", applet)); err != nil {
			g.t.Fatal(err)
		}
	}
	data := func(value any) []protocol.AgentResponse {
		raw, err := json.Marshal(value)
		if err != nil {
			g.t.Fatal(err)
		}
		return []protocol.AgentResponse{protocol.OKResponse{Data: raw}}
	}
	g.images.answers = map[string][]protocol.AgentResponse{
		"prepare_overlay": data(protocol.OverlayInfo{RootfsPath: rootfs, Image: info}),
		"cleanup_overlay": {protocol.OKResponse{}},
	}
	return rootfs
}

// asked lists the names of the requests about images since it was called last.
func (g *guest) asked() string {
	g.images.mu.Lock()
	defer g.images.mu.Unlock()
	var names []string
	for _, request := range g.images.asked {
		names = append(names, protocol.AgentRequests.Name(request))
	}
	g.images.asked = nil
	return strings.Join(names, " ")
}

func TestRun(t *testing.T) {
	g := newGuest(t)
	g.withImage(protocol.ImageInfo{Env: []string{"FROM=image"}, Workdir: new("/tmp"), User: new("ann"), Cmd: []string{"echo", "default"}})
	c := g.dial()
	script := func(text string) protocol.RunRequest {
		return protocol.RunRequest{Image: "box", Command: []string{"sh", "-c", text}}
	}
	for name, test := range map[string]struct {
		request protocol.RunRequest
		code    int32
		stdout  string
	}{
		"as the image says": {protocol.RunRequest{Image: "box"}, 0, "default\n"},
		"user":              {script("id -u; id -g; id -G"), 0, "1000\n1001\n1001 10\n"},
		"root":              {func() protocol.RunRequest { r := script("id -u"); r.User = new("0"); return r }(), 0, "0\n"},
		"place":             {script("pwd; echo $FROM"), 0, "/tmp\nimage\n"},
		"alone":             {script("echo $$; exit 5"), 5, "1\n"},
		"killed":            {script("kill -KILL $$; sleep 100 & kill -KILL $!; wait $!"), 137, ""},
	} {
		if got := c.send(test.request); !isCompleted(got, test.code, test.stdout) {
			t.Errorf("%s: %s", name, show(got))
		}
		if got := g.asked(); got != "prepare_overlay cleanup_overlay" {
			t.Errorf("%s: asked for %s", name, got)
		}
	}
	request := script("sleep 1000")
	request.TimeoutMS = new(uint64(500))
	if got := c.send(request); !isCompleted(got, timedOut, "") {
		t.Errorf("timeout: %s", show(got))
	}
	request = script("echo begun; cat; exit 4")
	request.Interactive = true
	c.send(request)
	c.say(`{"method":"stdin","data":"aGkK"}`)
	c.say(`{"method":"stdin","data":""}`)
	if stdout, _, code := c.listen(); stdout != "begun\nhi\n" || code != 4 {
		t.Errorf("interactive: %q, %d", stdout, code)
	}
	request = script("tty")
	request.TTY = true
	c.send(request)
	if stdout, _, code := c.listen(); stdout != "/dev/pts/0\r\n" || code != 0 {
		t.Errorf("terminal: %q, %d", stdout, code)
	}
}

// TestRunDetached gives the container's id, by which its files are found, and keeps an overlay that is to be kept.
func TestRunDetached(t *testing.T) {
	g := newGuest(t)
	g.withImage(protocol.ImageInfo{})
	c := g.dial()
	volume := t.TempDir()
	got := c.send(protocol.RunRequest{
		Image: "box", Command: []string{"sh", "-c", "echo here >/tmp/file; while [ ! -e /mnt/end ]; do sleep 0.02; done"}, Detached: true,
		PersistentOverlayID: new("kept"), Mounts: []protocol.Share{{Tag: volume, Target: "/mnt", ReadOnly: true}},
	})
	answer, ok := got.(protocol.CompletedResponse)
	if !ok || answer.ExitCode != 0 {
		t.Fatalf("detached: %s", show(got))
	}
	root := protocol.ContainersDir + "/" + string(answer.Stdout) + "/rootfs"
	g.await("the container has written its file", func() bool {
		chunk, ok := c.send(protocol.FileReadRequest{Path: root + "/tmp/file"}).(protocol.DataChunkResponse)
		return ok && string(chunk.Data) == "here\n"
	})
	wantOK(t, c.send(protocol.FileWriteRequest{Path: root + "/tmp/other", Data: []byte("x")}))
	wantError(t, c.send(protocol.FileWriteRequest{Path: root + "/mnt/end", Data: []byte("x")}), protocol.CodeFileIOFailed) // read-only
	if err := os.WriteFile(filepath.Join(volume, "end"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g.await("the container is removed", func() bool {
		e, ok := c.send(protocol.FileReadRequest{Path: root + "/tmp/file"}).(protocol.ErrorResponse)
		return ok && *e.Code == string(protocol.CodeNotFound)
	})
	if got := g.asked(); got != "prepare_overlay" {
		t.Errorf("asked for %s", got)
	}
}

// TestRunRefused leaves no overlay of a run that does not begin.
func TestRunRefused(t *testing.T) {
	g := newGuest(t)
	rootfs := g.withImage(protocol.ImageInfo{})
	c := g.dial()
	code := string(protocol.CodeNotFound)
	for name, test := range map[string]struct {
		request protocol.RunRequest
		code    protocol.Code
		asked   string
	}{
		"no command": {protocol.RunRequest{}, protocol.CodeInvalidRequest, "prepare_overlay cleanup_overlay"},
		"no such user": {protocol.RunRequest{Command: []string{"id"}, User: new("bob")}, protocol.CodeInvalidRequest,
			"prepare_overlay cleanup_overlay"},
		"no such program": {protocol.RunRequest{Command: []string{"nothing"}}, protocol.CodeStartFailed, "prepare_overlay cleanup_overlay"},
		"no such source": {
			protocol.RunRequest{Command: []string{"id"}, Mounts: []protocol.Share{{Tag: "/no/such", Target: "/a"}}}, protocol.CodeMountFailed, "",
		},
		"relative mount": {
			protocol.RunRequest{Command: []string{"id"}, Mounts: []protocol.Share{{Tag: "limpet", Target: "/a"}}}, protocol.CodeInvalidRequest, "",
		},
		"two modes": {protocol.RunRequest{Command: []string{"id"}, Detached: true, Interactive: true}, protocol.CodeInvalidRequest, ""},
	} {
		test.request.Image = "box"
		answer := c.send(test.request)
		wantError(t, answer, test.code)
		if got := g.asked(); got != test.asked {
			t.Errorf("%s: asked for %s, answered %s", name, got, show(answer))
		}
	}
	if err := os.Remove(filepath.Join(rootfs, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(rootfs, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	wantError(t, c.send(protocol.RunRequest{Image: "box", Command: []string{"id"}, User: new("root")}), protocol.CodeRunFailed)
	g.images.answers["prepare_overlay"] = []protocol.AgentResponse{protocol.ErrorResponse{Message: "image box: not found", Code: &code}}
	wantError(t, c.send(protocol.RunRequest{Image: "box", Command: []string{"id"}}), protocol.CodeNotFound)
	g.images.answers["prepare_overlay"] = []protocol.AgentResponse{protocol.ErrorResponse{Message: "it is broken"}}
	wantError(t, c.send(protocol.RunRequest{Image: "box", Command: []string{"id"}}), protocol.CodeOverlayFailed)
}

// TestImageRequests pass through with all that comes before their last answer, and end with their client.
func TestImageRequests(t *testing.T) {
	g := newGuest(t)
	code := string(protocol.CodePullFailed)
	g.images.answers = map[string][]protocol.AgentResponse{
		"pull": {
			protocol.ProgressResponse{Message: "half", Percent: new(uint8(50))},
			protocol.ErrorResponse{Message: "the registry is gone", Code: &code},
		},
		"export_layer": {protocol.DataChunkResponse{Data: []byte("a")}, protocol.DataChunkResponse{Data: []byte("b"), Done: true}},
		"list_images":  {protocol.OKResponse{Data: []byte("[]")}},
	}
	c := g.dial()
	if got, ok := c.send(protocol.PullRequest{Image: "box"}).(protocol.ProgressResponse); !ok || got.Message != "half" {
		t.Errorf("pull: %+v", got)
	}
	wantError(t, c.hear(), protocol.CodePullFailed)
	if got, ok := c.send(protocol.ExportLayerRequest{ImageDigest: "sha256:1"}).(protocol.DataChunkResponse); !ok || string(got.Data) != "a" ||
		got.Done {
		t.Errorf("export: %+v", got)
	}
	if got, ok := c.hear().(protocol.DataChunkResponse); !ok || string(got.Data) != "b" || !got.Done {
		t.Errorf("export: %+v", got)
	}
	wantOK(t, c.send(protocol.ListImagesRequest{}))
	c.say(`{"method":"storage_status"}`) // which the fake answers only by ending with its client
	c.Close()
	g.await("the connection is forgotten", func() bool {
		g.server.mu.Lock()
		defer g.server.mu.Unlock()
		return len(g.server.conns) == 0
	})
}
