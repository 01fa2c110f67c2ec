package integration

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	limpet "github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/standalone"
)

// TestOperateRun goes through the commands with a run in the background, as a new user does who has read the README.
func TestOperateRun(t *testing.T) {
	s := limpetOnly(t)
	s.detach("web", s.rootfs(), "--", "sh", "-c", "mkdir /www; echo served from $(uname -r); exec httpd -f -p 80 -h /www")
	s.awaitOutput("web", "\n")
	page := filepath.Join(s.TempDir(), "page")
	s.must(os.WriteFile(page, []byte("a page\n"), 0o644))

	result := s.limpet("ps")
	s.must(result.Err())
	s.wantRow(result.Stdout, standalone.Namespace, "web", "web", "running")
	result = s.limpet("logs", "web")
	s.must(result.Err())
	if !strings.HasPrefix(result.Stdout, "served from 6.12") {
		t.Errorf("logs: %q", result.Stdout)
	}
	s.must(s.limpet("cp", page, "web:/www/").Err())
	result = s.limpet("exec", "web", "cat", "/www/page")
	s.must(result.Err())
	if result.Stdout != "a page\n" {
		t.Errorf("exec: %q", result.Stdout)
	}
	forward := s.startLimpet("forward", "web", "0:80")
	address, _, _ := strings.Cut(forward.line(), " -> ")
	response, err := http.Get("http://" + address + "/page")
	s.must(err)
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); string(text) != "a page\n" || err != nil {
		t.Errorf("forward: %q, %v", text, err)
	}
	forward.interrupt()
	result = s.limpet("stats", "web")
	s.must(result.Err())
	s.wantRow(result.Stdout, standalone.Namespace, "web", "web")
	var info limpet.SandboxInfo
	s.limpetJSON(&info, "inspect", "web")
	if info.Holder.Name != "limpet" || info.State != limpet.SandboxRunning {
		t.Errorf("inspect: %+v", info)
	}
	guest := s.limpet("logs", "--guest", "web")
	s.must(guest.Err())
	s.wantRow(guest.Stdout, "kernel Linux version 6.12")
	s.must(s.limpet("stop", "web").Err())
	s.must(s.limpet("rm", "web").Err())
}
