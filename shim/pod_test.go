package shim

import (
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/limpet-run/limpet/runtime"
)

func mustAny(t *testing.T, message proto.Message) *anypb.Any {
	t.Helper()
	packed, err := typeurl.MarshalAnyToProto(message)
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

// newPodFixture has a pod without a pause container, made as containerd does.
func newPodFixture(t *testing.T) (*fixture, sandboxRPCs) {
	t.Helper()
	f := newFixture(t)
	if err := writeOptionsRecord(f.bundle, RuntimeOptions{ConfigPath: "/etc/other.toml"}); err != nil {
		t.Fatal(err)
	}
	api := sandboxRPCs{f.service}
	if _, err := api.CreateSandbox(t.Context(), &sandboxapi.CreateSandboxRequest{
		SandboxID: "c1", BundlePath: f.bundle, NetnsPath: "/run/netns/n",
		Options: mustAny(t, &cri.PodSandboxConfig{Hostname: "web"}), Annotations: map[string]string{"a": "b"},
	}); err != nil {
		t.Fatal(err)
	}
	return f, api
}

func (f *fixture) sandboxStatus() *sandboxapi.SandboxStatusResponse {
	f.Helper()
	status, err := sandboxRPCs{f.service}.SandboxStatus(f.Context(), &sandboxapi.SandboxStatusRequest{SandboxID: "c1"})
	if err != nil {
		f.Fatal(err)
	}
	return status
}

// TestSandboxService makes, starts, stops and ends a pod with a container in it.
func TestSandboxService(t *testing.T) {
	f, api := newPodFixture(t)
	options := f.fake.sandboxes[0].options
	if pod := options.Pod; pod.Hostname != "web" || pod.NetNS != "/run/netns/n" || pod.Annotations["a"] != "b" ||
		options.Bundle != f.bundle || options.Options.ConfigPath != "/etc/other.toml" || pod.Files["/etc/hostname"] != "web\n" {
		t.Errorf("the sandbox was made with %+v, %+v", options, pod)
	}
	if status := f.sandboxStatus(); status.State != "SANDBOX_NOTREADY" {
		t.Errorf("before its start it is %v", status)
	}
	started, err := api.StartSandbox(t.Context(), &sandboxapi.StartSandboxRequest{SandboxID: "c1"})
	if err != nil || started.Pid != 42 || time.Since(started.CreatedAt.AsTime()) > time.Minute {
		t.Fatalf("started: %v, %v", started, err)
	}
	if status := f.sandboxStatus(); status.State != "SANDBOX_READY" || status.Pid != 0 && status.Pid != 42 || status.ExitedAt != nil ||
		!status.CreatedAt.AsTime().Equal(started.CreatedAt.AsTime()) {
		t.Errorf("it is %v", status)
	}
	platform, err := api.Platform(t.Context(), &sandboxapi.PlatformRequest{SandboxID: "c1"})
	if err != nil || platform.Platform.OS != "linux" || platform.Platform.Architecture != goruntime.GOARCH {
		t.Errorf("platform: %v, %v", platform, err)
	}
	if _, err := api.PingSandbox(t.Context(), &sandboxapi.PingRequest{SandboxID: "c1"}); err != nil {
		t.Error(err)
	}
	f.fake.sandboxes[0].pod.stats = runtime.Stats{MemoryUsage: 1 << 20}
	metrics, err := api.SandboxMetrics(t.Context(), &sandboxapi.SandboxMetricsRequest{SandboxID: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	var usage uint64
	data, err := typeurl.UnmarshalAny(metrics.Metrics.Data)
	switch data := data.(type) {
	case *v1.Metrics:
		usage = data.Memory.Usage.Usage
	case *v2.Metrics:
		usage = data.Memory.Usage
	}
	if err != nil || usage != 1<<20 || metrics.Metrics.ID != "c1" {
		t.Errorf("metrics: %v, %v", metrics, err)
	}

	f.create("member")
	f.start("member", "")
	if len(f.fake.sandboxes) != 1 {
		t.Error("the container has a sandbox of its own")
	}
	for range 2 {
		if _, err := api.StopSandbox(t.Context(), &sandboxapi.StopSandboxRequest{SandboxID: "c1", TimeoutSecs: 5}); err != nil {
			t.Fatal(err)
		}
	}
	exit, err := api.WaitSandbox(t.Context(), &sandboxapi.WaitSandboxRequest{SandboxID: "c1"})
	if err != nil || exit.ExitStatus != 137 {
		t.Errorf("exit: %v, %v", exit, err)
	}
	if status := f.sandboxStatus(); status.State != "SANDBOX_NOTREADY" || status.Pid != 0 || status.ExitedAt == nil {
		t.Errorf("it is %v", status)
	}
	f.expectEvents("create member", "start member", "exit member 137")
	f.remove("member", "")
	if _, err := f.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: "member"}); err != nil {
		t.Error(err)
	}
	select {
	case <-f.gone:
		t.Fatal("the end of a container ends the pod's shim")
	default:
	}
	for range 2 {
		if _, err := api.ShutdownSandbox(t.Context(), &sandboxapi.ShutdownSandboxRequest{SandboxID: "c1"}); err != nil {
			t.Error(err)
		}
	}
	<-f.gone
}

// TestShutdownSandboxEndsTasks: whoever ends the sandbox ends what is in it.
func TestShutdownSandboxEndsTasks(t *testing.T) {
	f, api := newPodFixture(t)
	f.create("member")
	f.start("member", "")
	if _, err := api.ShutdownSandbox(t.Context(), &sandboxapi.ShutdownSandboxRequest{SandboxID: "c1"}); err != nil {
		t.Error(err)
	}
	<-f.gone
	if !f.fake.sandboxes[0].stopped {
		t.Error("the sandbox lives on")
	}
	f.expectEvents("create member", "start member", "exit member 137")
}

// second is a call's error.
func second(_ any, err error) error { return err }

func TestSandboxServiceRefuses(t *testing.T) {
	_, api := newPodFixture(t)
	create := func(api sandboxRPCs, id string, options *anypb.Any) error {
		return second(api.CreateSandbox(t.Context(), &sandboxapi.CreateSandboxRequest{SandboxID: id, BundlePath: t.TempDir(), Options: options}))
	}
	if err := create(api, "c1", nil); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second sandbox: %v", err)
	}
	if _, err := api.UpdateSandbox(t.Context(), &sandboxapi.UpdateSandboxRequest{SandboxID: "c1"}); !errdefs.IsNotImplemented(err) {
		t.Errorf("update: %v", err)
	}
	fresh := sandboxRPCs{newFixture(t).service}
	if err := create(fresh, "other", nil); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "other") {
		t.Errorf("another shim's sandbox: %v", err)
	}
	if err := create(fresh, "c1", mustAny(t, &emptypb.Empty{})); !errdefs.IsInvalidArgument(err) ||
		!strings.Contains(err.Error(), "google.protobuf.Empty") || !strings.Contains(err.Error(), "runtime.v1.PodSandboxConfig") {
		t.Errorf("options of another type: %v", err)
	}
	broken := mustAny(t, &cri.PodSandboxConfig{})
	broken.Value = []byte{0xff}
	if err := create(fresh, "c1", broken); !errdefs.IsInvalidArgument(err) {
		t.Errorf("broken options: %v", err)
	}
	for name, call := range map[string]func(sandboxRPCs, string) error{
		"start": func(api sandboxRPCs, id string) error {
			return second(api.StartSandbox(t.Context(), &sandboxapi.StartSandboxRequest{SandboxID: id}))
		},
		"platform": func(api sandboxRPCs, id string) error {
			return second(api.Platform(t.Context(), &sandboxapi.PlatformRequest{SandboxID: id}))
		},
		"stop": func(api sandboxRPCs, id string) error {
			return second(api.StopSandbox(t.Context(), &sandboxapi.StopSandboxRequest{SandboxID: id}))
		},
		"wait": func(api sandboxRPCs, id string) error {
			return second(api.WaitSandbox(t.Context(), &sandboxapi.WaitSandboxRequest{SandboxID: id}))
		},
		"status": func(api sandboxRPCs, id string) error {
			return second(api.SandboxStatus(t.Context(), &sandboxapi.SandboxStatusRequest{SandboxID: id}))
		},
		"ping": func(api sandboxRPCs, id string) error {
			return second(api.PingSandbox(t.Context(), &sandboxapi.PingRequest{SandboxID: id}))
		},
		"metrics": func(api sandboxRPCs, id string) error {
			return second(api.SandboxMetrics(t.Context(), &sandboxapi.SandboxMetricsRequest{SandboxID: id}))
		},
		"update": func(api sandboxRPCs, id string) error {
			return second(api.UpdateSandbox(t.Context(), &sandboxapi.UpdateSandboxRequest{SandboxID: id}))
		},
	} {
		if err := call(api, "other"); !errdefs.IsNotFound(err) {
			t.Errorf("%s of another sandbox: %v", name, err)
		}
		if err := call(fresh, "c1"); !errdefs.IsNotFound(err) {
			t.Errorf("%s before there is one: %v", name, err)
		}
	}
	// A pod of a pause container is none of the sandbox service's.
	f := newFixture(t)
	f.create("c1")
	if err := create(sandboxRPCs{f.service}, "c1", nil); !errdefs.IsAlreadyExists(err) {
		t.Errorf("beside a task's sandbox: %v", err)
	}
}

// TestCreateSandboxCanBeRetried: a failure leaves nothing.
func TestCreateSandboxCanBeRetried(t *testing.T) {
	f := newFixture(t)
	api := sandboxRPCs{f.service}
	f.fake.failNew = errdefs.ErrUnavailable
	request := &sandboxapi.CreateSandboxRequest{SandboxID: "c1", BundlePath: f.bundle}
	if _, err := api.CreateSandbox(t.Context(), request); !errdefs.IsUnavailable(err) {
		t.Errorf("got %v", err)
	}
	if _, err := api.PingSandbox(t.Context(), &sandboxapi.PingRequest{SandboxID: "c1"}); !errdefs.IsNotFound(err) {
		t.Errorf("it is there: %v", err)
	}
	f.fake.failNew = nil
	if _, err := api.CreateSandbox(t.Context(), request); err != nil {
		t.Error(err)
	}
}

func TestOptionsRecord(t *testing.T) {
	bundle := t.TempDir()
	if options, err := readOptionsRecord(bundle); err != nil || options.ConfigPath != "" {
		t.Errorf("without one: %+v, %v", options, err)
	}
	if err := os.WriteFile(filepath.Join(bundle, optionsRecordName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readOptionsRecord(bundle); err == nil {
		t.Error("a broken one was taken")
	}
}

// TestPauseDeletedFirst deletes the pause container while another one is still there, as containerd does when the VM has ended: the verb
// `delete` does not find the server, which ends with the last container.
func TestPauseDeletedFirst(t *testing.T) {
	f := newFixture(t)
	if err := writeServerRecord(f.bundle, serverRecord{Socket: "/nowhere"}); err != nil {
		t.Fatal(err)
	}
	f.create("c1")
	f.create("member")
	f.start("c1", "")
	f.start("member", "")
	f.fake.sandboxes[0].containers["c1"].init.end(runtime.ExitStatus{Code: 255, At: time.Now()})
	f.expectEvents("create c1", "create member", "start c1", "start member", "exit c1 255")
	f.remove("c1", "")
	if _, err := readServerRecord(f.bundle); !os.IsNotExist(err) {
		t.Errorf("the server is still to be found: %v", err)
	}
	if _, err := f.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: "c1"}); err != nil {
		t.Error(err)
	}
	select {
	case <-f.gone:
		t.Fatal("the other container's shim has ended")
	default:
	}
	f.fake.sandboxes[0].containers["member"].init.end(runtime.ExitStatus{Code: 255, At: time.Now()})
	f.events.await(t, 7)
	f.remove("member", "")
	select {
	case <-f.gone:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody ends the shim")
	}
}

// TestServerRecordStays: a sandbox whose only container is deleted is left to the verb `delete`, should its server hang.
func TestServerRecordStays(t *testing.T) {
	f := newFixture(t)
	if err := writeServerRecord(f.bundle, serverRecord{Socket: "/nowhere"}); err != nil {
		t.Fatal(err)
	}
	f.create("c1")
	f.remove("c1", "")
	if _, err := readServerRecord(f.bundle); err != nil {
		t.Error(err)
	}
}
