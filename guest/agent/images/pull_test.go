package images

import (
	"archive/tar"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

const testArchitecture = runtime.GOARCH

func slogDiscard() *log.Logger { return log.New(io.Discard, "", 0) }

// TestPull pulls an image of three layers and looks at its files.
func TestPull(t *testing.T) {
	s := newTestStore(t, 64<<20)
	setuid := regular("bin/su", "program")
	setuid.Mode = 0o4755
	setuid.Uid, setuid.Gid = 3, 4
	setuid.ModTime = time.Unix(1000000000, 0)
	setuid.PAXRecords = map[string]string{"SCHILY.xattr.user.note": "kept", "SCHILY.xattr.trusted.overlay.opaque": "y"}
	sudo := setuid // an entry for another name of the same file says the same of it
	sudo.Header.Name, sudo.Typeflag, sudo.Linkname, sudo.text = "bin/sudo", tar.TypeLink, "bin/su", ""
	closed := directoryEntry("closed")
	closed.Mode = 0o700
	closed.Uid = 9
	host := testRegistry(t, nil)
	image := push(t, host, "some/image:v1", imageOf(t,
		archiveOf(t, directoryEntry("bin"), setuid, sudo, regular("gone", "x"), closed,
			regular("closed/a", "a"), directoryEntry("full"), regular("full/old", "old")),
		archiveOf(t, regular(".wh.gone", ""), regular("full/.wh..wh..opq", ""), regular("full/new", "new")),
		archiveOf(t, regular("closed/b", "b"), link(tar.TypeSymlink, "etc", "/proc/self"), regular("kept", "1"), regular(".wh.kept", "")),
	))
	info, told, err := s.pullForTest(t, image)
	if err != nil {
		t.Fatal(err)
	}
	if info.Reference != image || info.LayerCount != 3 || len(info.Layers) != 3 || info.Size == 0 || info.OS != "linux" ||
		strings.Join(info.Entrypoint, " ") != "/bin/sh" || *info.Workdir != "/w" || *info.User != "7" || info.Env[0] != "A=1" {
		t.Errorf("got %+v", info)
	}
	for i, layer := range info.Layers {
		last := told[len(told)-3+i]
		if *last.Layer != layer || *last.Percent != 100 || last.Message != fmt.Sprintf("layer %d of 3", i+1) {
			t.Errorf("told %+v of layer %d, %s", last, i, layer)
		}
	}
	if found, err := s.Query(info.Digest); err != nil || found.Reference != image {
		t.Errorf("query by digest: %+v, %v", found, err)
	}
	if list, err := s.List(); err != nil || len(list) != 1 {
		t.Errorf("list: %+v, %v", list, err)
	}

	root := mustPrepare(t, s, image, "w1")
	for path, want := range map[string]string{
		"bin/su": "program", "bin/sudo": "program", "gone": "none", "full/old": "none", "full/new": "new", "closed/a": "a", "closed/b": "b",
		"etc": "-> /proc/self", "kept": "1",
	} {
		if got := look(root, path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	var first, second, dir unix.Stat_t
	for path, into := range map[string]*unix.Stat_t{"bin/su": &first, "bin/sudo": &second, "closed": &dir} {
		if err := unix.Lstat(root+"/"+path, into); err != nil {
			t.Fatal(path, err)
		}
	}
	if first.Mode&0o7777 != 0o4755 || first.Uid != 3 || first.Gid != 4 || first.Mtim.Sec != 1000000000 || first.Ino != second.Ino {
		t.Errorf("bin/su is %+v, bin/sudo %+v", first, second)
	}
	if dir.Mode&0o7777 != 0o700 || dir.Uid != 9 {
		t.Errorf("closed, which the third layer only mentions, is %+v", dir)
	}
	value := make([]byte, 16)
	if n, err := unix.Lgetxattr(root+"/bin/su", "user.note", value); err != nil || string(value[:n]) != "kept" {
		t.Errorf("attribute: %q, %v", value[:max(n, 0)], err)
	}
	// The layers are shared: a file that is written is the workload's own.
	if err := os.WriteFile(root+"/bin/su", []byte("changed"), 0); err != nil {
		t.Fatal(err)
	}
	if got := look(mustPrepare(t, s, image, "w2"), "bin/su"); got != "program" {
		t.Errorf("another workload sees %s", got)
	}
}

// TestPullAgain pulls a second image that shares a layer: only what is new is fetched.
func TestPullAgain(t *testing.T) {
	s := newTestStore(t, 64<<20)
	var blobs atomic.Int32
	host := testRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				blobs.Add(1)
			}
			next.ServeHTTP(w, r)
		})
	})
	base, top := archiveOf(t, regular("a", "1")), archiveOf(t, regular("b", "2"))
	for _, test := range []struct {
		layers [][]byte
		want   int32
	}{{[][]byte{base}, 2}, {[][]byte{base, top}, 2}, {[][]byte{base, top}, 1}} { // with the configuration
		image := push(t, host, fmt.Sprintf("image:%d", len(test.layers)), imageOf(t, test.layers...))
		blobs.Store(0)
		if _, _, err := s.pullForTest(t, image); err != nil {
			t.Fatal(err)
		}
		if got := blobs.Load(); got != test.want {
			t.Errorf("%d layers: %d blobs were fetched, want %d", len(test.layers), got, test.want)
		}
	}
}

// TestPullRefuses pulls what nobody should unpack. Nothing of it stays.
func TestPullRefuses(t *testing.T) {
	big := regular("big", strings.Repeat("x", 8<<20))
	for name, test := range map[string]struct {
		files []file
		says  string
	}{
		"dots":           {[]file{regular("../../outside", "x")}, "outside the layer"},
		"dots inside":    {[]file{regular("a/../../outside", "x")}, "outside the layer"},
		"hard link out":  {[]file{link(tar.TypeLink, "a", "../../outside")}, "outside the layer"},
		"hard link far":  {[]file{link(tar.TypeLink, "passwd", "/etc/passwd")}, "no such file"},
		"whiteout dots":  {[]file{regular(".wh...", "")}, "whiteout"},
		"full":           {[]file{big}, "no space left on device"},
		"kind":           {[]file{{Header: tar.Header{Name: "a", Typeflag: 'Z'}}}, "type"},
		"file and below": {[]file{regular("a", "x"), regular("a/b", "x")}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestStore(t, 4<<20)
			image := push(t, testRegistry(t, nil), "bad", imageOf(t, archiveOf(t, test.files...)))
			_, _, err := s.pullForTest(t, image)
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %q", err, test.says)
			}
			wantNothingHalfDone(t, s, 0)
		})
	}
}

// TestUnpackStaysInside: links of a layer are followed as if the layer were the whole file system, and devices are made in it.
func TestUnpackStaysInside(t *testing.T) {
	s := newTestStore(t, 4<<20)
	outside := t.TempDir()
	image := push(t, testRegistry(t, nil), "links", imageOf(t, archiveOf(t,
		link(tar.TypeSymlink, "abs", outside), regular("abs/file", "x"),
		link(tar.TypeSymlink, "up", "../../../../../../../.."+outside), regular("up/other", "y"),
		regular("/rooted", "z"), link(tar.TypeLink, "hard", "/rooted"),
		file{Header: tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}},
		file{Header: tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o600}},
	)))
	if _, _, err := s.pullForTest(t, image); err != nil {
		t.Fatal(err)
	}
	root := mustPrepare(t, s, image, "w")
	for path, want := range map[string]string{
		"abs": "-> " + outside, outside + "/file": "x", outside + "/other": "y", "rooted": "z", "hard": "z",
		"null": "Dc---------", "pipe": "p---------",
	} {
		if got := look(root, path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside: %v, %v", left, err)
	}
}

// breaking answers requests for the blob that is larger than limit with the first limit bytes only.
func breaking(limit int, times int32, how func(w http.ResponseWriter)) func(http.Handler) http.Handler {
	var count atomic.Int32
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
				next.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(&cutWriter{ResponseWriter: w, left: limit, cut: func() {
				if count.Add(1) <= times {
					how(w)
				}
			}}, r)
		})
	}
}

type cutWriter struct {
	http.ResponseWriter
	left int
	cut  func()
}

func (w *cutWriter) Write(data []byte) (int, error) {
	if len(data) <= w.left {
		w.left -= len(data)
		return w.ResponseWriter.Write(data)
	}
	if _, err := w.ResponseWriter.Write(data[:w.left]); err != nil {
		return 0, err
	}
	w.cut()
	rest := data[w.left:]
	w.left = 1 << 40
	n, err := w.ResponseWriter.Write(rest)
	return len(data) - len(rest) + n, err
}

func hangUp(http.ResponseWriter) { panic(http.ErrAbortHandler) }

// noise is text that does not compress.
func noise(size int) string {
	text := make([]byte, size/2)
	_, _ = rand.NewChaCha8([32]byte{}).Read(text) // never fails
	return hex.EncodeToString(text)
}

// TestRegistryBreaksOff: a registry that hangs up half-way is asked for the rest; if it never gives it, the pull fails.
func TestRegistryBreaksOff(t *testing.T) {
	layer := archiveOf(t, regular("file", noise(1<<20)))
	t.Run("once", func(t *testing.T) {
		s := newTestStore(t, 16<<20)
		image := push(t, testRegistry(t, breaking(100<<10, 1, hangUp)), "image", imageOf(t, layer))
		if _, _, err := s.pullForTest(t, image); err != nil {
			t.Fatal(err)
		}
		if got := look(mustPrepare(t, s, image, "w"), "file"); got != noise(1<<20) {
			t.Error("the file is another one")
		}
	})
	t.Run("for good", func(t *testing.T) {
		s := newTestStore(t, 16<<20)
		image := push(t, testRegistry(t, breaking(0, 1<<30, hangUp)), "image", imageOf(t, layer))
		if _, _, err := s.pullForTest(t, image); err == nil {
			t.Error("was pulled")
		}
		wantNothingHalfDone(t, s, 0)
	})
}

// TestPullCancelled cancels a pull in its second layer; the first one stays for the next pull.
func TestPullCancelled(t *testing.T) {
	s := newTestStore(t, 16<<20)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	host := testRegistry(t, breaking(100<<10, 1, func(http.ResponseWriter) {
		cancel()
		<-t.Context().Done() // the connection ends before
	}))
	image := push(t, host, "image", imageOf(t, archiveOf(t, regular("a", "1")), archiveOf(t, regular("file", noise(1<<20)))))
	_, err := s.Pull(ctx, protocol.PullRequest{Image: image}, func(protocol.ProgressResponse) {})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "cancelled") || !strings.Contains(err.Error(), "1 of 2 layers") {
		t.Errorf("got %v", err)
	}
	wantNothingHalfDone(t, s, 1)
	if _, _, err := s.pullForTest(t, image); err != nil {
		t.Error(err)
	}
}

// TestWrongDigest has a registry that answers with other bytes.
func TestWrongDigest(t *testing.T) {
	s := newTestStore(t, 16<<20)
	image := push(t, testRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				w = &flipWriter{ResponseWriter: w}
			}
			next.ServeHTTP(w, r)
		})
	}), "image", imageOf(t, archiveOf(t, regular("a", noise(4096)))))
	if _, _, err := s.pullForTest(t, image); err == nil || !strings.Contains(err.Error(), "sha256") {
		t.Errorf("got %v", err)
	}
	wantNothingHalfDone(t, s, 0)
}

type flipWriter struct{ http.ResponseWriter }

func (w *flipWriter) Write(data []byte) (int, error) {
	changed := append([]byte(nil), data...)
	changed[len(changed)-1] ^= 1
	return w.ResponseWriter.Write(changed)
}

// TestPullNotFound: names that are wrong, and images that are not there or not for this machine.
func TestPullNotFound(t *testing.T) {
	s := newTestStore(t, 4<<20)
	host := testRegistry(t, nil)
	for image, is := range map[string]func(error) bool{
		host + "/none:latest":              errdefs.IsNotFound,
		"No Name":                          errdefs.IsInvalidArgument,
		strings.Repeat("a", 2000):          errdefs.IsInvalidArgument,
		"oci-layout:/etc":                  errdefs.IsInvalidArgument,
		"oci-layout:" + s.Share + "/../x":  errdefs.IsInvalidArgument,
		"docker-archive:" + s.Share + "/x": errdefs.IsNotFound,
	} {
		if _, _, err := s.pullForTest(t, image); !is(err) {
			t.Errorf("%.80s: got %v", image, err)
		}
	}
	image := push(t, host, "image", imageOf(t, archiveOf(t, regular("a", "1"))))
	other := "linux/s390x"
	_, err := s.Pull(t.Context(), protocol.PullRequest{Image: image, OCIPlatform: &other}, func(protocol.ProgressResponse) {})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), other) {
		t.Errorf("another platform: %v", err)
	}
	wantNothingHalfDone(t, s, 0)
}
