package images

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// stallTimeout is how long a registry may send nothing in the middle of an answer: a busy one pauses for seconds.
	stallTimeout = 30 * time.Second
	// maxResumes is how many times in a row an answer that gives nothing is asked for again, resumePause how long to wait the first time,
	// which doubles.
	maxResumes  = 3
	resumePause = 250 * time.Millisecond
)

// errStalled is the end of an answer of which nothing comes any more.
var errStalled = errors.New("nothing came for too long")

// newTransport is http.DefaultTransport with limits of its own for what a guest may wait for.
func newTransport() *http.Transport {
	believeMozilla()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	transport.ResponseHeaderTimeout = stallTimeout
	return transport
}

// resuming is a transport whose answers go on where they broke off, if the server knows ranges (RFC 9110, section 14). Whether
// what is put together is right, the digest tells.
type resuming struct {
	base  http.RoundTripper
	stall time.Duration
}

// RoundTrip implements http.RoundTripper.
func (t *resuming) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := t.base.RoundTrip(request)
	if err != nil || request.Method != http.MethodGet || response.StatusCode != http.StatusOK || response.ContentLength <= 0 {
		return response, err
	}
	response.Body = &resumingBody{transport: t, request: request, body: response.Body, size: response.ContentLength}
	return response, nil
}

// resumingBody is an answer's body that asks for the rest of itself.
type resumingBody struct {
	transport *resuming
	request   *http.Request
	body      io.ReadCloser
	size      int64 // bytes, of the whole
	read      int64
	failures  int // since something came
}

// Read implements io.Reader.
func (b *resumingBody) Read(buffer []byte) (int, error) {
	for {
		n, err := b.readOnce(buffer)
		b.read += int64(n)
		if n > 0 {
			b.failures = 0
			return n, nil
		}
		if err == nil || b.read >= b.size || b.request.Context().Err() != nil {
			return 0, err
		}
		if err := b.resume(err); err != nil {
			return 0, err
		}
	}
}

// readOnce reads something, or fails when nothing comes.
func (b *resumingBody) readOnce(buffer []byte) (int, error) {
	var stalled atomic.Bool
	body := b.body
	timer := time.AfterFunc(b.transport.stall, func() {
		stalled.Store(true)
		body.Close()
	})
	defer timer.Stop()
	n, err := body.Read(buffer)
	if stalled.Load() {
		err = errStalled
	}
	return n, err
}

// resume asks for what is missing, some times.
func (b *resumingBody) resume(why error) error {
	b.body.Close()
	for b.failures < maxResumes {
		pause := time.NewTimer(resumePause << b.failures)
		b.failures++
		select {
		case <-pause.C:
		case <-b.request.Context().Done():
			pause.Stop()
			return b.request.Context().Err()
		}
		request := b.request.Clone(b.request.Context())
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", b.read, b.size-1))
		response, err := b.transport.base.RoundTrip(request)
		if err != nil {
			why = err
			continue
		}
		if err := b.fits(response); err != nil {
			response.Body.Close()
			return fmt.Errorf("it broke off after %d of %d bytes (%w) and cannot be resumed: %w", b.read, b.size, why, err)
		}
		b.body = response.Body
		return nil
	}
	return fmt.Errorf("it broke off after %d of %d bytes: %w", b.read, b.size, why)
}

// fits tells whether an answer is the rest of the first one.
func (b *resumingBody) fits(response *http.Response) error {
	want := fmt.Sprintf("bytes %d-%d/%d", b.read, b.size-1, b.size)
	if got := response.Header.Get("Content-Range"); response.StatusCode != http.StatusPartialContent || got != want {
		return fmt.Errorf("the answer is %s, of the range %.64q", response.Status, got)
	}
	return nil
}

// Close implements io.Closer.
func (b *resumingBody) Close() error { return b.body.Close() }
