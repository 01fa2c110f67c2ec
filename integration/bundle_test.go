package integration

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/runtime/task/v3"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/limpet-run/limpet/integration/harness"
)

// bundle is a bundle that the test makes and drives limpet's shim in, as containerd would: containerd itself never makes one
// without a good config.json.
type bundle struct {
	*scope
	id, dir string
}

// bundle makes a bundle with that text as its config.json; without the file if the text is empty.
func (s *scope) bundle(config string) bundle {
	s.Helper()
	// In the run's directory, where what is left of it is found.
	dir, err := os.MkdirTemp(daemon.Dir, "bundle")
	s.must(err)
	b := bundle{s, s.id(), dir}
	s.must(os.Mkdir(filepath.Join(dir, "rootfs"), 0o700))
	s.must(unix.Mkfifo(filepath.Join(dir, "log"), 0o600))
	if config != "" {
		s.must(os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600))
	}
	s.openFIFO(filepath.Join(dir, "log"))
	return b
}

// shim runs a verb of limpet's shim in the bundle.
func (b bundle) shim(verb string) harness.Result {
	b.Helper()
	input, err := proto.Marshal(&bootstrap.BootstrapParams{
		InstanceID: b.id, Namespace: daemon.Namespace, SocketDir: proto.String(filepath.Join(daemon.Dir, "s")),
	})
	b.must(err)
	cmd := exec.CommandContext(b.ctx, daemon.Build.Path("bin/containerd-shim-limpet-v2"),
		"-namespace", daemon.Namespace, "-id", b.id, "-address", daemon.Address(), "-bundle", b.dir, verb)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "TTRPC_ADDRESS="+daemon.Address()+".ttrpc", "NAMESPACE="+daemon.Namespace)
	cmd.Stdin = bytes.NewReader(input)
	return harness.Run(cmd)
}

// create starts a shim in the bundle and asks it for a task, which has to fail, and then to end. It returns the error.
func (b bundle) create() error {
	b.Helper()
	started := b.shim("start")
	b.must(started.Err())
	var answer struct{ Address string }
	b.must(json.Unmarshal([]byte(started.Stdout), &answer))
	conn, err := net.Dial("unix", strings.TrimPrefix(answer.Address, "unix://"))
	b.must(err)
	client := ttrpc.NewClient(conn)
	defer client.Close()

	options, err := typeurl.MarshalAnyToProto(&runtimeoptions.Options{ConfigPath: daemon.ConfigPath()})
	b.must(err)
	tasks := task.NewTTRPCTaskClient(client)
	ctx := daemon.Context(b.ctx)
	_, createErr := tasks.Create(ctx, &task.CreateTaskRequest{ID: b.id, Bundle: b.dir, Options: options})
	_, err = tasks.Shutdown(ctx, &task.ShutdownRequest{ID: b.id})
	b.must(err)
	b.must(b.shim("delete").Err())
	return createErr
}

// TestBadSpec has a bundle with a broken config.json, or with none.
func TestBadSpec(t *testing.T) {
	for _, test := range []struct {
		name, config string
		words        []string
	}{
		{"none", "", []string{"config.json", "no such file"}},
		{"another type", `{"process": 7}`, []string{"config.json", "process"}},
		{"no process", `{"ociVersion": "1.2.0"}`, []string{"config.json", "process"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := limpetOnly(t).bundle(test.config)
			err := b.create()
			if err == nil {
				t.Fatal("the task was made")
			}
			wantError(t, err.Error(), test.words...)
		})
	}
}

// TestSpecIsNotJSON cannot even start a shim.
func TestSpecIsNotJSON(t *testing.T) {
	b := limpetOnly(t).bundle("{broken")
	result := b.shim("start")
	if result.Code == 0 {
		t.Error("the shim started")
	}
	wantError(t, result.Stderr, "config.json", "invalid character")
}
