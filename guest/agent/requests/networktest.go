package requests

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// testTimeout is how long a network test may take: a person waits for it.
	testTimeout = 15 * time.Second
	// maxStatusLine is how much of a server's answer is read, in bytes: far more than its first line has.
	maxStatusLine = 4 << 10
)

// networkTest fetches a URL from where the guest is. What is encrypted is for the program that has the means.
func (c *conn) networkTest(ctx context.Context, r protocol.NetworkTestRequest) (protocol.AgentResponse, error) {
	target, err := parseTestURL(r.URL)
	if err != nil {
		return nil, err
	}
	if target.Scheme == "https" {
		return c.images(ctx, r)
	}
	result, err := fetch(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("network test of %s: %w", r.URL, err)
	}
	data, err := json.Marshal(result)
	if err != nil {
		return nil, failed(protocol.CodeSerialization, err)
	}
	return protocol.OKResponse{Data: data}, nil
}

// parseTestURL refuses what is no URL that could be fetched.
func parseTestURL(text string) (*url.URL, error) {
	target, err := url.Parse(text)
	if err != nil {
		return nil, invalid("URL %.128q: %v", text, err)
	}
	if target.Scheme != "http" && target.Scheme != "https" || target.Hostname() == "" || strings.ContainsAny(text, " \r\n") {
		return nil, invalid("URL %.128q: want http://HOST/ or https://HOST/", text)
	}
	return target, nil
}

// fetch makes one request of HTTP/1.0, which needs neither the standard library's client nor its memory, and reads the first line of the answer.
func fetch(ctx context.Context, target *url.URL) (protocol.NetworkTestResult, error) {
	ctx, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	began := time.Now()
	port := target.Port()
	if port == "" {
		port = "80"
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(target.Hostname(), port))
	if err != nil {
		return protocol.NetworkTestResult{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.0\r\nHost: %s\r\nUser-Agent: limpet\r\n\r\n", target.RequestURI(), target.Host); err != nil {
		return protocol.NetworkTestResult{}, err
	}
	line, err := bufio.NewReader(io.LimitReader(conn, maxStatusLine)).ReadString('\n')
	if err != nil {
		return protocol.NetworkTestResult{}, fmt.Errorf("read the answer: %w", err)
	}
	status, err := statusOf(line)
	if err != nil {
		return protocol.NetworkTestResult{}, err
	}
	return protocol.NetworkTestResult{
		URL: target.String(), Status: status, RemoteAddress: conn.RemoteAddr().String(), Milliseconds: uint64(time.Since(began).Milliseconds()),
	}, nil
}

// statusOf reads a status line: "HTTP/1.1 200 OK".
func statusOf(line string) (uint16, error) {
	version, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.ParseUint(code, 10, 16)
	if err != nil || !strings.HasPrefix(version, "HTTP/") || len(code) != 3 {
		return 0, fmt.Errorf("the answer is not HTTP: %.64q", line)
	}
	return uint16(status), nil
}
