package images

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// reachTimeout is how long a page may take, name and TLS included.
	reachTimeout = 20 * time.Second
	// maxPage is how much of it is read, in bytes: to see that something comes.
	maxPage = 64 << 10
)

// Reach fetches a page over HTTP or HTTPS and tells what came of it. That it cannot be reached is no error.
func Reach(ctx context.Context, address string) (protocol.NetworkTested, error) {
	parsed, err := url.Parse(address)
	if err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https" {
		return protocol.NetworkTested{}, fmt.Errorf("want a URL of http or https: %w", errdefs.ErrInvalidArgument)
	}
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	began := time.Now()
	status, err := fetchPage(ctx, address)
	result := protocol.NetworkTested{URL: address, Reachable: err == nil, Milliseconds: uint64(time.Since(began).Milliseconds())}
	if err != nil {
		result.Error = optional(err.Error())
	} else {
		result.Status = &status
	}
	return result, nil
}

func fetchPage(ctx context.Context, address string) (status uint16, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, err
	}
	client := http.Client{Transport: newTransport()}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(response.Body, maxPage))
	return uint16(response.StatusCode), err
}
