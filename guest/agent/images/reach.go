package images

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// reachTimeout is how long a page may take, name and TLS included: a person waits for it.
	reachTimeout = 15 * time.Second
	// maxPage is how much of it is read, in bytes: to see that something comes.
	maxPage = 64 << 10
)

// reach fetches a page over HTTP or HTTPS.
func reach(ctx context.Context, address string) (result protocol.NetworkTestResult, err error) {
	parsed, err := url.Parse(address)
	if err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https" {
		return result, fmt.Errorf("URL %.128q: want http://HOST/ or https://HOST/: %w", address, errdefs.ErrInvalidArgument)
	}
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { result.RemoteAddress = info.Conn.RemoteAddr().String() },
	})
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return result, err
	}
	began := time.Now()
	// A redirect is an answer like any other.
	response, err := newTransport().RoundTrip(request)
	if err != nil {
		return result, fmt.Errorf("network test of %s: %w", address, err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(response.Body, maxPage)); err != nil {
		return result, fmt.Errorf("network test of %s: %w", address, err)
	}
	result.URL, result.Status, result.Milliseconds = address, uint16(response.StatusCode), uint64(time.Since(began).Milliseconds())
	return result, nil
}
