package integration

import (
	"strings"
	"testing"

	"github.com/limpet-run/limpet/integration/harness"
)

// wantForward asks a port of the pod's localhost for a page. An empty one is wanted where nobody listens.
func (p pod) wantForward(port int32, page string) {
	p.Helper()
	forward, err := p.Forward(p.ctx, port)
	p.must(err)
	defer forward.Close()
	answer, err := forward.Ask("GET /index.html HTTP/1.0\r\n\r\n")
	switch {
	case page == "" && answer != "":
		p.Errorf("port %d, where nobody listens, answered %q", port, answer)
	case page != "" && (err != nil || !strings.HasSuffix(answer, "\r\n\r\n"+page)):
		p.Errorf("port %d answered %q, %v", port, answer, err)
	}
}

// TestPodForward reaches servers in a pod that listen on its localhost alone, also one that comes later.
func TestPodForward(t *testing.T) {
	eachMode(t, func(s *podScope) {
		p := s.run(s.podConfig())
		container := p.start(harness.ContainerConfig("server", "sh", "-c",
			"mkdir /www && echo ebb >/www/index.html && exec httpd -f -p 127.0.0.1:8080 -h /www"))
		s.execSync(container, "sh", "-c", "until netstat -ltn | grep -q :8080; do sleep 0.1; done")
		p.wantForward(8080, "ebb\n")
		p.wantForward(8080, "ebb\n") // again
		p.wantForward(9090, "")
		s.execSync(container, "httpd", "-p", "127.0.0.1:9090", "-h", "/www") // it goes on in the background
		p.wantForward(9090, "ebb\n")
	})
}
