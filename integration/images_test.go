package integration

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/miekg/dns"

	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/integration/harness"
)

// largeLayer is the size in bytes of a layer that takes a while.
const largeLayer = 4 << 20

// registryName is the host name of the tests' registry, which the certificates of package httptest are for.
const registryName = "registry.example.com"

// imageServer is a registry in a network namespace of the run, and what it is to do to those who fetch layers.
type imageServer struct {
	*scope
	netns   string
	address string // where it is
	host    string // how it is called
	server  *httptest.Server

	mu      sync.Mutex
	spoil   func(w http.ResponseWriter, r *http.Request) http.ResponseWriter // nil: nothing
	fetched atomic.Int32                                                     // layers and configurations
}

func (s *scope) imageServer(netns string) *imageServer {
	s.Helper()
	listener, err := harness.ListenIn("/run/netns/"+netns, "10.9.0.1:0")
	s.must(err)
	address := listener.Addr().String()
	_, port, err := net.SplitHostPort(address)
	s.must(err)
	images := &imageServer{scope: s, netns: "/run/netns/" + netns, address: address, host: net.JoinHostPort(registryName, port)}
	stored := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	images.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			images.fetched.Add(1)
			images.mu.Lock()
			spoil := images.spoil
			images.mu.Unlock()
			if spoil != nil {
				w = spoil(w, r)
			}
		}
		stored.ServeHTTP(w, r)
	}))
	s.must(images.server.Listener.Close())
	images.server.Listener, images.server.Config.ErrorLog = listener, log.New(io.Discard, "", 0)
	images.server.StartTLS()
	s.Cleanup(images.server.Close)
	return images
}

// nameServer answers in a network namespace of the run where the registry is.
func (s *scope) nameServer(netns string) {
	s.Helper()
	conn, err := harness.ListenPacketIn("/run/netns/"+netns, "10.9.0.1:53")
	s.must(err)
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
		answer := new(dns.Msg).SetReply(question)
		if q := question.Question[0]; q.Qtype == dns.TypeA && q.Name == registryName+"." {
			header := dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}
			answer.Answer = []dns.RR{&dns.A{Hdr: header, A: net.IPv4(10, 9, 0, 1)}}
		}
		_ = w.WriteMsg(answer) // who does not get it asks again
	})}
	go server.ActivateAndServe()
	s.Cleanup(func() { conn.Close() })
}

// spoiled calls f while the registry does something to what it serves.
func (i *imageServer) spoiled(spoil func(w http.ResponseWriter, r *http.Request) http.ResponseWriter, f func()) {
	set := func(spoil func(w http.ResponseWriter, r *http.Request) http.ResponseWriter) {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.spoil = spoil
	}
	set(spoil)
	defer set(nil)
	f()
}

// push puts an image of busybox and more layers into the registry and returns its name.
func (i *imageServer) push(repository string, layers ...[]byte) string {
	i.Helper()
	image := i.busybox()
	for _, archive := range layers {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil })
		i.must(err)
		image, err = mutate.AppendLayers(image, layer)
		i.must(err)
	}
	ref, err := name.ParseReference(i.host + "/" + repository)
	i.must(err)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return harness.DialIn(ctx, i.netns, i.address)
	}
	transport := &http.Transport{
		DialContext: dial, DisableKeepAlives: true, TLSClientConfig: i.server.Client().Transport.(*http.Transport).TLSClientConfig,
	}
	i.must(remote.Write(ref, image, remote.WithContext(i.ctx), remote.WithTransport(transport)))
	return ref.Name()
}

// busybox is the image that containers of the tests are made of.
func (s *scope) busybox() v1.Image {
	s.Helper()
	dir := s.TempDir()
	s.must(harness.Run(exec.CommandContext(s.ctx, "tar", "-xf", daemon.Build.Path("busybox.tar"), "-C", dir)).Err())
	index, err := layout.ImageIndexFromPath(dir)
	s.must(err)
	manifest, err := index.IndexManifest()
	s.must(err)
	image, err := index.Image(manifest.Manifests[0].Digest)
	s.must(err)
	return image
}

// layer is an archive of one entry.
func (s *scope) layer(header tar.Header, text []byte) []byte {
	s.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	header.Size, header.Mode = int64(len(text)), 0o755
	s.must(w.WriteHeader(&header))
	_, err := w.Write(text)
	s.must(errors.Join(err, w.Close()))
	return archive.Bytes()
}

// zeroes is an archive of so many files of half a mebibyte.
func (s *scope) zeroes(files int) []byte {
	s.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for i := range files {
		s.must(w.WriteHeader(&tar.Header{Name: fmt.Sprint("zeroes", i), Typeflag: tar.TypeReg, Size: 512 << 10, Mode: 0o644}))
		_, err := w.Write(make([]byte, 512<<10))
		s.must(err)
	}
	s.must(w.Close())
	return archive.Bytes()
}

// requests opens a connection for machine requests.
func (c container) requests() *client.Requests {
	c.Helper()
	doors, err := filepath.Glob(filepath.Join(daemon.StateDir(), "*", "agent.sock"))
	c.must(err)
	if len(doors) != 1 {
		c.Fatalf("%d doors, want one: %q", len(doors), doors)
	}
	conn, err := net.Dial("unix", doors[0])
	c.must(err)
	requests := client.NewRequests(conn, c.id)
	c.Cleanup(func() { requests.Close() })
	return requests
}

// ask makes a machine request that is answered by data.
func ask[T any](s *scope, requests *client.Requests, request protocol.AgentRequest) T {
	s.Helper()
	data, err := client.Get[T](s.ctx, requests, request, nil)
	s.must(err)
	return data
}

// imageWorld makes the network namespace of a sandbox with a registry and its name server beyond, and the files of the host (key
// guest_data of the configuration) by which the guest finds and believes it.
func (s *scope) imageWorld() (pod string, images *imageServer, files map[string]any) {
	s.Helper()
	pod, world := s.netns("pod"), s.netns("world")
	s.wire(pod, world)
	images = s.imageServer(world)
	s.nameServer(world)
	resolv := filepath.Join(s.TempDir(), "resolv.conf")
	s.must(os.WriteFile(resolv, []byte("nameserver 10.9.0.1\n"), 0o644))
	believed := filepath.Join(s.TempDir(), "believed")
	s.must(os.WriteFile(believed, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: images.server.Certificate().Raw}), 0o644))
	return pod, images, map[string]any{"resolv.conf": resolv, "ca-certificates.crt": believed}
}

// TestImages pulls an image in the guest from a registry that is reached over the sandbox's network: cancelled once, completed then; and
// runs a command of it.
func TestImages(t *testing.T) {
	s := limpetOnly(t)
	pod, images, files := s.imageWorld()
	large := make([]byte, largeLayer)
	_, _ = rand.NewChaCha8([32]byte{}).Read(large) // never fails
	good := images.push("good", s.layer(tar.Header{Name: "large", Typeflag: tar.TypeReg}, large),
		s.layer(tar.Header{Name: "say", Typeflag: tar.TypeReg}, []byte("#!/bin/sh\necho said; wc -c </large; exit 3\n")))

	s.configure(map[string]any{
		"storage":    map[string]any{"mib": 128, "dir": s.TempDir()},
		"guest_data": files,
	})
	c := s.sleeper("--with-ns", "network:/run/netns/"+pod)
	requests := c.requests()
	if status := ask[protocol.StorageStatus](s, requests, protocol.StorageStatusRequest{}); status.Ready {
		t.Errorf("before the disk is formatted: %+v", status)
	}
	ask[struct{}](s, requests, protocol.FormatStorageRequest{})
	if status := ask[protocol.StorageStatus](s, requests, protocol.StorageStatusRequest{}); !status.Ready || status.TotalBytes < 100<<20 {
		t.Errorf("status: %+v", status)
	}

	// Somebody who has lost patience hangs up in the middle of the second layer.
	impatient, ended := c.requests(), make(chan struct{})
	images.spoiled(func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		return &stopping{ResponseWriter: w, left: largeLayer * 3 / 4, stop: func() {
			impatient.Close()
			<-r.Context().Done() // the guest hangs up too
			close(ended)
			panic(http.ErrAbortHandler)
		}}
	}, func() {
		_, err := impatient.Do(s.ctx, protocol.PullRequest{Image: good}, nil)
		if err == nil {
			t.Error("the pull that was cancelled has an answer")
		}
		<-ended
	})
	if list := ask[[]protocol.ImageInfo](s, requests, protocol.ListImagesRequest{}); len(list) != 0 {
		t.Errorf("after a pull that was cancelled: %+v", list)
	}
	if status := ask[protocol.StorageStatus](s, requests, protocol.StorageStatusRequest{}); status.LayerCount != 1 || status.ImageCount != 0 {
		t.Errorf("after a pull that was cancelled in the second layer: %+v", status)
	}

	images.fetched.Store(0)
	percents := map[string][]uint8{}
	info, err := client.Get[protocol.ImageInfo](s.ctx, requests, protocol.PullRequest{Image: good}, func(p protocol.ProgressResponse) {
		if p.Layer != nil && p.Percent != nil {
			percents[*p.Layer] = append(percents[*p.Layer], *p.Percent)
		}
	})
	s.must(err)
	if n := images.fetched.Load(); n != 3 { // the configuration, and the layers but for the first, which was there
		t.Errorf("%d blobs were fetched", n)
	}
	for _, layer := range info.Layers {
		told := percents[layer]
		if len(told) == 0 || told[len(told)-1] != 100 {
			t.Errorf("of layer %s was told %v", layer, told)
		}
	}
	t.Logf("told of the layers: %v", percents)
	if list := ask[[]protocol.ImageInfo](s, requests, protocol.ListImagesRequest{}); len(list) != 1 || list[0].Digest != info.Digest {
		t.Errorf("list: %+v", list)
	}
	test := ask[protocol.NetworkTestResult](s, requests, protocol.NetworkTestRequest{URL: "https://" + images.host + "/v2/"})
	if test.Status != http.StatusOK || test.RemoteAddress != images.address {
		t.Errorf("network test: %+v", test)
	}
	result, err := requests.Complete(s.ctx, protocol.RunRequest{Image: good, Command: []string{"/say"}})
	s.must(err)
	if want := "said\n4194304\n"; string(result.Stdout) != want || result.ExitCode != 3 {
		t.Errorf("run: %d, %q, %q", result.ExitCode, result.Stdout, result.Stderr)
	}

	s.wantNoImages(requests, images)
	collected := ask[protocol.GarbageCollected](s, requests, protocol.GarbageCollectRequest{PurgeAll: true})
	if collected.Layers < 3 || len(collected.Images) != 1 || collected.FreedBytes < largeLayer {
		t.Errorf("collected: %+v", collected)
	}
}

// wantNoImages pulls what is not to be pulled: each time an error with a reason, and no image.
func (s *scope) wantNoImages(requests *client.Requests, images *imageServer) {
	s.Helper()
	before := ask[[]protocol.ImageInfo](s, requests, protocol.ListImagesRequest{})
	regular := func(name string, size int) []byte {
		return s.layer(tar.Header{Name: name, Typeflag: tar.TypeReg}, make([]byte, size))
	}
	for _, test := range []struct {
		name  string
		layer []byte
		spoil func(w http.ResponseWriter, r *http.Request) http.ResponseWriter
		says  string
	}{
		{"dots", regular("../../escaped", 1), nil, "outside the layer"},
		{"link", s.layer(tar.Header{Name: "link", Typeflag: tar.TypeLink, Linkname: "../../../../etc/passwd"}, nil), nil, "outside the layer"},
		{"full", s.zeroes(260), nil, "no space left"},
		{"digest", regular("changed", 1), func(w http.ResponseWriter, _ *http.Request) http.ResponseWriter { return changing{w} }, "sha256"},
		{"half", regular("half", 1<<10), func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
			r.Header.Del("Range") // it does not know how to go on either
			return &stopping{ResponseWriter: w, left: 50, stop: func() { panic(http.ErrAbortHandler) }}
		}, "broke off"},
	} {
		image := images.push(test.name, test.layer)
		images.spoiled(test.spoil, func() {
			_, err := requests.Do(s.ctx, protocol.PullRequest{Image: image}, nil)
			refused, ok := errors.AsType[*protocol.Error](err)
			if !ok || refused.Code != protocol.CodePullFailed || !strings.Contains(refused.Message, test.says) {
				s.Errorf("%s: %v, want %q", test.name, err, test.says)
			}
		})
		if list := ask[[]protocol.ImageInfo](s, requests, protocol.ListImagesRequest{}); len(list) != len(before) {
			s.Errorf("%s: %+v", test.name, list)
		}
	}
}

// changing changes the last byte of what is written.
type changing struct{ http.ResponseWriter }

func (w changing) Write(data []byte) (int, error) {
	changed := bytes.Clone(data)
	changed[len(changed)-1] ^= 1
	return w.ResponseWriter.Write(changed)
}

// stopping stops in the middle of what is larger than left bytes.
type stopping struct {
	http.ResponseWriter
	left int
	stop func()
}

func (w *stopping) Write(data []byte) (int, error) {
	if len(data) > w.left {
		if _, err := w.ResponseWriter.Write(data[:w.left]); err != nil {
			return 0, err
		}
		w.ResponseWriter.(http.Flusher).Flush()
		w.stop()
	}
	w.left -= len(data)
	return w.ResponseWriter.Write(data)
}
