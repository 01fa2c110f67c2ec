package requests

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"testing"

	"github.com/limpet-run/limpet/guest/protocol"
)

func TestParseTestURL(t *testing.T) {
	for _, text := range []string{"http://example.com", "http://127.0.0.1:8080/a?b=c", "https://[::1]/", "http://user@host/"} {
		if _, err := parseTestURL(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{"", "example.com", "ftp://example.com", "http://", "http://a b/", "http://a/\r\nX: y", "http://a/\x00"} {
		if got, err := parseTestURL(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestStatusOf(t *testing.T) {
	for line, want := range map[string]uint16{"HTTP/1.0 200 OK": 200, "HTTP/1.1 404": 404, "HTTP/1.1 503 Not now": 503} {
		if got, err := statusOf(line); got != want || err != nil {
			t.Errorf("%q: %d, %v", line, got, err)
		}
	}
	for _, line := range []string{"", "SSH-2.0-x", "HTTP/1.1", "HTTP/1.1 OK", "HTTP/1.1 20 x", "HTTP/1.1 99999 x", "200 HTTP/1.1"} {
		if got, err := statusOf(line); err == nil {
			t.Errorf("%q: %d", line, got)
		}
	}
}

// TestNetworkTest asks servers that answer in different ways.
func TestNetworkTest(t *testing.T) {
	c := newGuest(t).dial()
	for name, test := range map[string]struct {
		answer string
		status uint16 // 0: an error
	}{
		"HTTP":     {"HTTP/1.0 204 No Content\r\n\r\n", 204},
		"not HTTP": {"SSH-2.0-OpenSSH\r\n", 0},
		"no line":  {string(make([]byte, 2*maxStatusLine)), 0},
		"nothing":  {"", 0},
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		asked := make(chan string, 1)
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				asked <- err.Error()
				return
			}
			defer conn.Close()
			line, _ := bufio.NewReader(conn).ReadString('\n')
			asked <- line
			fmt.Fprint(conn, test.answer)
		}()
		url := fmt.Sprintf("http://%s/path?query", listener.Addr())
		answer := c.send(protocol.NetworkTestRequest{URL: url})
		if line := <-asked; line != "GET /path?query HTTP/1.0\r\n" {
			t.Errorf("%s: asked %q", name, line)
		}
		listener.Close()
		ok, isOK := answer.(protocol.OKResponse)
		if test.status == 0 {
			wantError(t, answer, protocol.CodeInternal)
			continue
		}
		var result protocol.NetworkTestResult
		if err := json.Unmarshal(ok.Data, &result); !isOK || err != nil || result.Status != test.status || result.URL != url ||
			result.RemoteAddress != listener.Addr().String() {
			t.Errorf("%s: %s, %v", name, show(answer), err)
		}
	}
	wantError(t, c.send(protocol.NetworkTestRequest{URL: "http://127.0.0.1:1/"}), protocol.CodeInternal)
}
