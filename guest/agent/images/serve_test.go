package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/guest/protocol"
)

// ask serves one request and returns its responses.
func ask(t *testing.T, s *Store, request protocol.AgentRequest) []protocol.AgentResponse {
	t.Helper()
	text, err := protocol.AgentRequests.Encode(request)
	if err != nil {
		t.Fatal(err)
	}
	return askRaw(t, s, text)
}

func askRaw(t *testing.T, s *Store, text []byte) (responses []protocol.AgentResponse) {
	t.Helper()
	var in, out bytes.Buffer
	if err := protocol.WriteMessage(&in, text); err != nil {
		t.Fatal(err)
	}
	if err := Serve(t.Context(), s.Options, &in, &out); err != nil {
		t.Fatal(err)
	}
	for {
		text, err := protocol.ReadMessage(&out)
		if err == io.EOF {
			return responses
		}
		if err != nil {
			t.Fatal(err)
		}
		response, err := protocol.AgentResponses.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		responses = append(responses, response)
	}
}

// askData is ask for what is answered by data, which it decodes as strictly as the protocol wants.
func askData[T any](t *testing.T, s *Store, request protocol.AgentRequest) (data T) {
	t.Helper()
	responses := ask(t, s, request)
	ok, is := responses[len(responses)-1].(protocol.OKResponse)
	if !is {
		t.Fatalf("%T: %+v", request, responses)
	}
	if bytes.Contains(ok.Data, []byte(`:null`)) && !bytes.Contains(ok.Data, []byte(`"created":null`)) {
		t.Errorf("%T: %s", request, ok.Data)
	}
	if err := json.Unmarshal(ok.Data, &data); err != nil {
		t.Fatal(err)
	}
	return data
}

// TestServe asks for everything once, in the order of an image's life.
func TestServe(t *testing.T) {
	s := newTestStore(t, 32<<20)
	image := push(t, testRegistry(t, nil), "image", imageOf(t, archiveOf(t, regular("a", noise(3<<19)))))
	responses := ask(t, s, protocol.PullRequest{Image: image})
	told := 0
	for _, response := range responses[:len(responses)-1] {
		if _, ok := response.(protocol.ProgressResponse); ok {
			told++
		}
	}
	if told < 2 || told != len(responses)-1 {
		t.Errorf("pull: %+v", responses)
	}
	info := askData[protocol.ImageInfo](t, s, protocol.QueryRequest{Image: image})
	if list := askData[[]protocol.ImageInfo](t, s, protocol.ListImagesRequest{}); len(list) != 1 || list[0].Digest != info.Digest {
		t.Errorf("list: %+v", list)
	}
	overlay := askData[protocol.OverlayInfo](t, s, protocol.PrepareOverlayRequest{Image: image, WorkloadID: "w"})
	if got := look(overlay.RootfsPath, "a"); got != noise(3<<19) {
		t.Errorf("a is %.64q", got)
	}
	status := askData[protocol.StorageStatus](t, s, protocol.StorageStatusRequest{})
	if status.Ready == false || status.LayerCount != 1 || status.ImageCount != 1 || status.UsedBytes < 1<<20 || status.TotalBytes != 32<<20 {
		t.Errorf("status: %+v", status) // the test's store is a file system of its own, like a disk
	}
	var archive bytes.Buffer
	chunks := ask(t, s, protocol.ExportLayerRequest{ImageDigest: info.Digest})
	for i, response := range chunks {
		chunk, ok := response.(protocol.DataChunkResponse)
		if !ok || chunk.Done != (i == len(chunks)-1) || len(chunk.Data) > protocol.FileChunk {
			t.Fatalf("chunk %d of %d: %T", i, len(chunks), response)
		}
		archive.Write(chunk.Data)
	}
	if header, err := tar.NewReader(&archive).Next(); err != nil || header.Name != "a" || header.Size != 3<<19 || len(chunks) != 2 {
		t.Errorf("exported %+v, %v, in %d chunks", header, err, len(chunks))
	}
	if got := ask(t, s, protocol.CleanupOverlayRequest{WorkloadID: "w"}); len(got) != 1 || got[0].(protocol.OKResponse).Data != nil {
		t.Errorf("clean up: %+v", got)
	}
	collected := askData[protocol.GarbageCollected](t, s, protocol.GarbageCollectRequest{PurgeAll: true})
	if collected.Layers != 1 || len(collected.Images) != 1 {
		t.Errorf("collect: %+v", collected)
	}
	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	result := askData[protocol.NetworkTestResult](t, s, protocol.NetworkTestRequest{URL: page.URL})
	if result.Status != http.StatusNotFound || "http://"+result.RemoteAddress != page.URL {
		t.Errorf("network test: %+v", result)
	}
}

// TestServeFails: each request fails with its code, or that of its kind.
func TestServeFails(t *testing.T) {
	s := newTestStore(t, 4<<20)
	host := testRegistry(t, nil)
	bad := push(t, host, "bad", imageOf(t, archiveOf(t, regular("../a", "x"))))
	for _, test := range []struct {
		request protocol.AgentRequest
		code    protocol.Code
	}{
		{protocol.PullRequest{Image: bad}, protocol.CodePullFailed},
		{protocol.PullRequest{Image: host + "/none"}, protocol.CodeNotFound},
		{protocol.PullRequest{Image: "No Name"}, protocol.CodeInvalidRequest},
		{protocol.QueryRequest{Image: "none"}, protocol.CodeNotFound},
		{protocol.PrepareOverlayRequest{Image: "none", WorkloadID: "w"}, protocol.CodeNotFound},
		{protocol.PrepareOverlayRequest{Image: "none", WorkloadID: "../w"}, protocol.CodeInvalidRequest},
		{protocol.CleanupOverlayRequest{WorkloadID: "w"}, protocol.CodeNotFound},
		{protocol.ExportLayerRequest{ImageDigest: "sha256:0"}, protocol.CodeNotFound},
		{protocol.FormatStorageRequest{}, protocol.CodeFormatFailed},
		{protocol.NetworkTestRequest{URL: "ftp://host/"}, protocol.CodeInvalidRequest},
		{protocol.NetworkTestRequest{URL: "https://127.0.0.1:1/"}, protocol.CodeInternal},
		{protocol.PingRequest{}, protocol.CodeInvalidRequest},
	} {
		responses := ask(t, s, test.request)
		failed, ok := responses[len(responses)-1].(protocol.ErrorResponse)
		if !ok || protocol.Code(*failed.Code) != test.code || failed.Message == "" {
			t.Errorf("%+v: %+v, want %s", test.request, responses, test.code)
		}
	}
	for _, text := range []string{"", "{}", `{"method":"pull"}`, `{"method":"pull","image":"a","oci_platform":7}`, strings.Repeat("[", 1000)} {
		failed, ok := askRaw(t, s, []byte(text))[0].(protocol.ErrorResponse)
		if !ok || protocol.Code(*failed.Code) != protocol.CodeInvalidRequest {
			t.Errorf("%.32s: %+v", text, failed)
		}
	}
}

// TestCredentials: a registry that asks for them gets those of the request, and they are in no error.
func TestCredentials(t *testing.T) {
	s := newTestStore(t, 4<<20)
	open := true
	host := testRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if name, password, _ := r.BasicAuth(); !open && (name != "user" || password != "right-word") {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	image := push(t, host, "image", imageOf(t, archiveOf(t, regular("a", "1"))))
	open = false
	for password, want := range map[string]bool{"right-word": true, "wrong-word": false} {
		auth := &protocol.RegistryAuth{Username: "user", Password: protocol.Secret(password)}
		responses := ask(t, s, protocol.PullRequest{Image: image, Auth: auth})
		last := responses[len(responses)-1]
		if _, ok := last.(protocol.OKResponse); ok != want {
			t.Errorf("%s: %+v", password, last)
		}
		failed, _ := last.(protocol.ErrorResponse)
		if strings.Contains(failed.Message, password) || strings.Contains(failed.Message, "user name") == want {
			t.Errorf("%s: error is %s", password, failed.Message)
		}
	}
}
