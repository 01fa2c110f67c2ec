package install

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCheckVersion(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"containerd github.com/containerd/containerd/v2 v2.4.2 \n", "v2.4.2"},
		{"containerd containerd.io 2.0.0-rc.1 1234567890", "2.0.0-rc.1"},
		{"v2.1.5", "v2.1.5"},
		{"containerd github.com/containerd/containerd v1.7.24", ""},
		{"cri-o 12.0.1", ""},
		{"", ""},
	} {
		got, err := checkVersion(test.text)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%q: %q, %v", test.text, got, err)
		}
	}
}

func TestCheckDump(t *testing.T) {
	limpet := func(plugin, name string) string {
		return "[plugins.'" + plugin + "'.containerd.runtimes." + name + "]\nruntime_type = 'io.containerd.limpet.v2'\n"
	}
	both := limpet(criPlugins[3], "limpet") + limpet(criPlugins[3], "limpet-shim")
	for _, test := range []struct{ text, want string }{
		{"version = 3\n" + both, ""},
		{"version = 4\n" + both, ""},
		{"version = 3\n" + limpet(criPlugins[3], "limpet"), "limpet-shim"},
		{"version = 3\n" + strings.ReplaceAll(both, "limpet.v2", "runc.v2"), `"limpet"`},
		{"version = 2\n" + both, `"limpet"`},
		{"version = 3\nplugins = { 'io.containerd.cri.v1.runtime' = 1 }\n", `"limpet"`},
		{"version", "not valid"},
	} {
		err := checkDump([]byte(test.text))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v", test.text, err)
		}
	}
}

// fakeCRI is a containerd as far as it says what it is.
type fakeCRI struct {
	cri.UnimplementedRuntimeServiceServer
	handlers []string
}

func (f fakeCRI) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{RuntimeVersion: "v2.4.2"}, nil
}

func (f fakeCRI) Status(context.Context, *cri.StatusRequest) (*cri.StatusResponse, error) {
	var response cri.StatusResponse
	for _, name := range f.handlers {
		response.RuntimeHandlers = append(response.RuntimeHandlers, &cri.RuntimeHandler{Name: name})
	}
	return &response, nil
}

func TestRestart(t *testing.T) {
	both := []string{"", "runc", "limpet", "limpet-shim"}
	for _, test := range []struct {
		name          string
		handlers      []string // of the running containerd
		changed, want bool
		restart       bool
		says, err     string
	}{
		{"known already", both, false, true, true, "ready", ""},
		{"not known yet", both[:3], false, true, false, "next restart containerd v2.4.2", ""},
		{"changed", both, true, true, false, "next restart", ""},
		{"removed", both, false, false, false, "next restart", ""},
		{"removed long ago", nil, false, false, true, "ready", ""},
		{"nobody to restart it", nil, true, true, true, "restart containerd", "by hand"},
	} {
		t.Run(test.name, func(t *testing.T) {
			root, err := os.MkdirTemp("/tmp", "li") // the path of a socket has to be short
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(root)
			listener, err := net.Listen("unix", filepath.Join(root, "c.sock"))
			if err != nil {
				t.Fatal(err)
			}
			server := grpc.NewServer()
			cri.RegisterRuntimeServiceServer(server, fakeCRI{handlers: test.handlers})
			go server.Serve(listener)
			defer server.Stop()

			var got lines
			err = restart(t.Context(), newHost(root), Options{Address: "/c.sock", Restart: test.restart}, test.changed, test.want, got.report)
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %v", err)
			}
			if !got.contain(test.says) {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestAskRunningNobody(t *testing.T) {
	if _, err := askRunning(t.Context(), newHost(t.TempDir()), "/c.sock", askTimeout, false); !errdefs.IsUnavailable(err) {
		t.Errorf("got %v", err)
	}
}
