package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/cgroup"
)

// asShim in the environment makes the test binary the shim's binary, over a runtime in memory.
const asShim = "LIMPET_TEST_SHIM"

func TestMain(m *testing.M) {
	if os.Getenv(asShim) != "" {
		os.Exit(Main(os.Args[1:], &fakeRuntime{onStop: awaitRelease}))
	}
	os.Exit(m.Run())
}

// releaseName is a FIFO in the bundle, if the test makes it: the stop of the sandbox waits for its writer, and then makes a file of
// stoppedName.
const releaseName, stoppedName = "release", "stopped"

func awaitRelease() {
	if release, err := os.Open(releaseName); err == nil {
		release.Close()
		_ = os.WriteFile(stoppedName, nil, 0o600) // the test looks for it
	}
}

// call runs a verb as containerd does: in the bundle, with stdout and stderr told apart.
func call(t *testing.T, bundle string, stdin []byte, arguments ...string) (stdout, stderr string, err error) {
	t.Helper()
	command := exec.Command(os.Args[0], arguments...)
	// GORACE: else the race detector sleeps a second.
	command.Env = append(os.Environ(), asShim+"=1", "TTRPC_ADDRESS=/nowhere", "GORACE=atexit_sleep_ms=0")
	command.Dir = bundle
	command.Stdin = bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	command.Stdout, command.Stderr = &out, &errs
	err = command.Run()
	return out.String(), errs.String(), err
}

// identity are the arguments that name a container; containerd's address keeps a test's sockets from another's.
func identity(bundle, id string, verb string) []string {
	return []string{"-namespace", "ns", "-address", filepath.Dir(bundle), "-id", id, verb}
}

func newBundle(t *testing.T, spec string) string {
	t.Helper()
	bundle := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(bundle, logName), 0o700); err != nil {
		t.Fatal(err)
	}
	if spec != "" {
		if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(spec), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return bundle
}

// startShim runs `start` and returns the path of the socket. The server is ended by `delete` after the test.
func startShim(t *testing.T, bundle, id, stdin string) string {
	t.Helper()
	stdout, stderr, err := call(t, bundle, []byte(stdin), identity(bundle, id, "start")...)
	if err != nil || stderr != "" {
		t.Fatalf("start: %v: %s", err, stderr)
	}
	t.Cleanup(func() { call(t, bundle, nil, identity(bundle, id, "delete")...) })
	var answer bootstrapAnswer
	if err := json.Unmarshal([]byte(stdout), &answer); err != nil {
		t.Fatalf("%q: %v", stdout, err)
	}
	path, ok := strings.CutPrefix(answer.Address, "unix://")
	if !ok || answer.Version != 3 || answer.Protocol != "ttrpc" {
		t.Fatalf("answer %+v", answer)
	}
	return path
}

func dial(t *testing.T, path string) taskapi.TTRPCTaskService {
	t.Helper()
	connection, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(connection)
	t.Cleanup(func() { client.Close() })
	return taskapi.NewTTRPCTaskClient(client)
}

func TestStartServeDelete(t *testing.T) {
	bundle := newBundle(t, "{}")
	path := startShim(t, bundle, "c1", "")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v", info, err)
	}
	connected, err := dial(t, path).Connect(t.Context(), &taskapi.ConnectRequest{ID: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	record, err := readServerRecord(bundle)
	if err != nil || record.PID != int(connected.ShimPid) || record.Socket != path {
		t.Fatalf("record %+v, %v; server %d", record, err, connected.ShimPid)
	}
	if session, err := unix.Getsid(record.PID); err != nil || session != record.PID {
		t.Errorf("session %d, %v", session, err)
	}

	t.Run("start again answers the same", func(t *testing.T) {
		stdout, stderr, err := call(t, bundle, nil, identity(bundle, "c1", "start")...)
		if err != nil || stderr != "" || !strings.Contains(stdout, path) {
			t.Errorf("%q %q %v", stdout, stderr, err)
		}
		if again, _ := readServerRecord(bundle); again != record {
			t.Errorf("another server: %+v", again)
		}
	})
	t.Run("a container of the sandbox joins it", func(t *testing.T) {
		member := filepath.Join(filepath.Dir(bundle), "member")
		spec := `{"annotations":{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"c1"}}`
		if err := os.MkdirAll(member, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(member, "config.json"), []byte(spec), 0o600); err != nil {
			t.Fatal(err)
		}
		stdout, stderr, err := call(t, member, nil, identity(bundle, "c2", "start")...)
		if err != nil || stderr != "" || !strings.Contains(stdout, path) {
			t.Errorf("%q %q %v", stdout, stderr, err)
		}
		if _, err := readServerRecord(member); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it got its own server: %v", err)
		}
		if _, stderr, err := call(t, member, nil, identity(bundle, "c2", "delete")...); err != nil || !served(path) {
			t.Errorf("its delete ended the sandbox: %v %s", err, stderr)
		}
	})
	tasks := dial(t, path)
	if _, err := tasks.Create(t.Context(), &taskapi.CreateTaskRequest{ID: "c1", Bundle: bundle}); err != nil {
		t.Fatal(err)
	}
	if _, err := tasks.Start(t.Context(), &taskapi.StartRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	t.Run("delete", func(t *testing.T) {
		for range 2 {
			stdout, stderr, err := call(t, bundle, nil, append([]string{"-bundle", bundle}, identity(bundle, "c1", "delete")...)...)
			if err != nil || stderr != "" {
				t.Fatalf("%v: %s", err, stderr)
			}
			var response taskapi.DeleteResponse
			if err := proto.Unmarshal([]byte(stdout), &response); err != nil || response.ExitStatus != 137 || response.Pid != 42 ||
				time.Since(response.ExitedAt.AsTime()) > time.Minute {
				t.Errorf("%v %v", &response, err)
			}
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("socket: %v", err)
		}
		if now, err := runtime.DescribeProcess(record.Name, record.PID); err == nil && now == record.HostProcess && !zombie(t, record.PID) {
			t.Error("the server lives")
		}
	})
}

// zombie tells whether a process has ended and waits only for its parent, here the host's init, to notice.
func zombie(t *testing.T, pid int) bool {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	return strings.Contains(string(data), ") Z ")
}

func TestStartReplacesStaleSocket(t *testing.T) {
	bundle := newBundle(t, "{}")
	path, err := socketPath("", filepath.Dir(bundle), "ns", "c1")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	listener.Close() // leaves the file
	if got := startShim(t, bundle, "c1", ""); got != path || !served(path) {
		t.Errorf("%s is not served", got)
	}
}

func TestShutdownEndsTheServer(t *testing.T) {
	bundle := newBundle(t, "{}")
	path := startShim(t, bundle, "c1", "")
	record, err := readServerRecord(bundle)
	if err != nil {
		t.Fatal(err)
	}
	handle, err := unix.PidfdOpen(record.PID, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(handle)
	tasks := dial(t, path)
	ctx := t.Context()
	if _, err := tasks.Create(ctx, &taskapi.CreateTaskRequest{ID: "c1", Bundle: bundle}); err != nil {
		t.Fatal(err)
	}
	if _, err := tasks.Start(ctx, &taskapi.StartRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := tasks.Kill(ctx, &taskapi.KillRequest{ID: "c1", Signal: 15}); err != nil {
		t.Fatal(err)
	}
	if _, err := tasks.Wait(ctx, &taskapi.WaitRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := tasks.Delete(ctx, &taskapi.DeleteRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := tasks.Shutdown(ctx, &taskapi.ShutdownRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket: %v", err)
	}
	awaitEnd(t, handle)
	stdout, _, err := call(t, bundle, nil, identity(bundle, "c1", "delete")...)
	var response taskapi.DeleteResponse
	if err != nil || proto.Unmarshal([]byte(stdout), &response) != nil || response.ExitStatus != 143 || response.Pid != 42 {
		t.Errorf("delete after the exit: %v %v", &response, err)
	}
}

// TestDeleteAwaitsShutdown has `delete` come while the sandbox is being stopped: the server that was shut down ends by itself.
func TestDeleteAwaitsShutdown(t *testing.T) {
	bundle := newBundle(t, "{}")
	if err := unix.Mkfifo(filepath.Join(bundle, releaseName), 0o600); err != nil {
		t.Fatal(err)
	}
	tasks := dial(t, startShim(t, bundle, "c1", ""))
	if _, err := tasks.Create(t.Context(), &taskapi.CreateTaskRequest{ID: "c1", Bundle: bundle}); err != nil {
		t.Fatal(err)
	}
	if _, err := tasks.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := tasks.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	deleted := make(chan error)
	go func() {
		_, _, err := call(t, bundle, nil, identity(bundle, "c1", "delete")...)
		deleted <- err
	}()
	select {
	case err := <-deleted:
		t.Fatalf("delete did not wait for the server: %v", err)
	case <-time.After(300 * time.Millisecond): // it takes ten to kill
	}
	release, err := os.OpenFile(filepath.Join(bundle, releaseName), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	release.Close()
	if err := <-deleted; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(bundle, stoppedName)); err != nil {
		t.Errorf("the server was not left to stop its sandbox: %v", err)
	}
}

// inCgroup is the stdin of a start with runc's option for the shim's cgroup.
func inCgroup(path string) string {
	options, _ := marshalAny(&runcoptions.Options{ShimCgroup: path}) // fails for no such message
	stdin, _ := proto.Marshal(options)
	return string(stdin)
}

// TestStartInShimCgroup asks for a cgroup that is there.
func TestStartInShimCgroup(t *testing.T) {
	host, path := cgroup.ThisHost(), fmt.Sprintf("/limpet-shim-%d", os.Getpid())
	if err := host.Make(path, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	place, err := host.Locate(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the server's end
		if err := cgroup.Remove(context.Background(), place.Directories()); err != nil {
			t.Error(err)
		}
	})
	bundle := newBundle(t, "{}")
	startShim(t, bundle, "c1", inCgroup(path))
	record, err := readServerRecord(bundle)
	if err != nil {
		t.Fatal(err)
	}
	memberships, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", record.PID))
	if err != nil {
		t.Fatal(err)
	}
	if joined := strings.Count(string(memberships), ":"+path+"\n"); joined == 0 {
		t.Errorf("the server is elsewhere:\n%s", memberships)
	}
}

func TestStartRefuses(t *testing.T) {
	member := `{"annotations":{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"gone"}}`
	for name, test := range map[string]struct {
		spec  string
		stdin string
		says  string
	}{
		"broken spec":     {spec: "{", says: "config.json"},
		"unknown options": {spec: "{}", stdin: "\n\x06some.X", says: "some.X"},
		"no sandbox":      {spec: member, says: "sandbox gone"},
		"no such cgroup":  {spec: "{}", stdin: inCgroup("/limpet-none"), says: "/limpet-none"},
	} {
		t.Run(name, func(t *testing.T) {
			bundle := newBundle(t, test.spec)
			stdout, stderr, err := call(t, bundle, []byte(test.stdin), identity(bundle, "c1", "start")...)
			if err == nil || stdout != "" || !strings.Contains(stderr, test.says) {
				t.Errorf("%q %q %v", stdout, stderr, err)
			}
			path, _ := socketPath("", filepath.Dir(bundle), "ns", "c1")
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a socket is left: %v", err)
			}
		})
	}
}

func TestInfoAndVersion(t *testing.T) {
	options, err := marshalAny(&runcoptions.Options{Root: "/r"})
	if err != nil {
		t.Fatal(err)
	}
	for name, stdin := range map[string][]byte{"no options": nil, "options": encode(t, options)} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, err := call(t, t.TempDir(), stdin, "-info")
			if err != nil || stderr != "" {
				t.Fatalf("%v %s", err, stderr)
			}
			var got types.RuntimeInfo
			if err := proto.Unmarshal([]byte(stdout), &got); err != nil || got.Name != RuntimeName || got.Version == nil {
				t.Fatalf("%v %v", &got, err)
			}
			if !proto.Equal(got.Options, options) && stdin != nil {
				t.Errorf("options %v", got.Options)
			}
			decoded, err := typeurl.UnmarshalAny(got.Features)
			if err != nil {
				t.Fatal(err)
			}
			// What CRI asks for before it lets a pod have a user namespace, or a mount that is read-only with all below it.
			has, linux := decoded.(*features.Features), decoded.(*features.Features).Linux
			if !*linux.MountExtensions.IDMap.Enabled || !slices.Contains(linux.Namespaces, "user") || !slices.Contains(has.MountOptions, "rro") ||
				!*linux.Seccomp.Enabled || *linux.Apparmor.Enabled {
				t.Errorf("features %+v", has)
			}
		})
	}
	if stdout, _, err := call(t, t.TempDir(), nil, "-v"); err != nil || !strings.Contains(stdout, "Version:") {
		t.Errorf("version: %q %v", stdout, err)
	}
	if stdout, _, err := call(t, t.TempDir(), []byte("\n\x06some.X"), "-info"); err == nil || stdout != "" {
		t.Errorf("unknown options: %q %v", stdout, err)
	}
}

// awaitEnd waits until the process of a pidfd has ended.
func awaitEnd(t *testing.T, handle int) {
	t.Helper()
	const patience = 10_000 // ms
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(handle), Events: unix.POLLIN}}, patience); err != nil || n != 1 {
		t.Fatalf("the process lives on: %v", err)
	}
}

// watched is a log that tells of each line.
type watched chan string

func (w watched) Write(line []byte) (int, error) {
	w <- string(line)
	return len(line), nil
}

func TestReapOrphans(t *testing.T) {
	child := exec.Command("true")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(watched, 1)
	deaths := make(chan os.Signal, 1)
	deaths <- unix.SIGCHLD
	logger := slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	handle, err := unix.PidfdOpen(child.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(handle)
	awaitEnd(t, handle)
	go reapOrphans(t.Context(), deaths, time.Millisecond, logger)
	if line := <-lines; !strings.Contains(line, "orphan reaped") {
		t.Error(line)
	}
	if err := child.Wait(); !errors.Is(err, unix.ECHILD) {
		t.Errorf("it was not reaped: %v", err)
	}
}

func TestLogNeverWaits(t *testing.T) {
	directory := newBundle(t, "")
	descriptor, err := unix.Open(filepath.Join(directory, logName), unix.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(descriptor), logName)
	defer file.Close()
	line := []byte(strings.Repeat("x", 4096))
	for range 100 { // more than a pipe holds
		if n, err := (logPipe{descriptor}).Write(line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	if n, err := io.ReadFull(file, line); n != len(line) || err != nil {
		t.Errorf("%d %v", n, err)
	}
}
