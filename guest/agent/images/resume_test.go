package images

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestResume has servers that stop in the middle of an answer.
func TestResume(t *testing.T) {
	content := []byte(noise(64 << 10))
	whole := func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
	half := func(w http.ResponseWriter) {
		w.Header().Set("Content-Length", "65536")
		if _, err := w.Write(content[:32<<10]); err != nil {
			t.Error(err)
		}
		w.(http.Flusher).Flush()
	}
	for name, test := range map[string]struct {
		first, then http.HandlerFunc
		says        string // the error; empty: all comes
	}{
		"hangs up":          {func(w http.ResponseWriter, _ *http.Request) { half(w); panic(http.ErrAbortHandler) }, whole, ""},
		"says nothing more": {func(w http.ResponseWriter, r *http.Request) { half(w); <-r.Context().Done() }, whole, ""},
		"knows no ranges": {func(w http.ResponseWriter, _ *http.Request) { half(w); panic(http.ErrAbortHandler) },
			func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) }, "cannot be resumed"},
		"has another part": {func(w http.ResponseWriter, _ *http.Request) { half(w); panic(http.ErrAbortHandler) },
			func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Range", "bytes 0-65535/65536")
				w.WriteHeader(http.StatusPartialContent)
			}, "cannot be resumed"},
		"never comes back": {func(w http.ResponseWriter, _ *http.Request) { half(w); panic(http.ErrAbortHandler) },
			func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "broke off after 32768 of 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if requests.Add(1) == 1 {
					test.first(w, r)
				} else {
					test.then(w, r)
				}
			}))
			defer server.Close()
			client := http.Client{Transport: &resuming{base: newTransport(), stall: 200 * time.Millisecond}}
			response, err := client.Get(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			got, err := io.ReadAll(response.Body)
			if test.says == "" && (err != nil || !bytes.Equal(got, content)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("%d bytes, %v, want %q", len(got), err, test.says)
			}
		})
	}
}
