package pod

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/agenttest"
	"github.com/limpet-run/limpet/guest/protocol"
)

func TestMain(m *testing.M) {
	MainIfAsked()
	runtime.LockOSThread() // no test gets the process's first thread, which would keep the namespaces that it joins
	os.Exit(m.Run())
}

func hold(t *testing.T, m protocol.Pod) *Holder {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	h, err := Start(t.Context(), agenttest.Reaper(), m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.child.Signal(unix.SIGKILL); err != nil {
			t.Error(err)
		}
		<-h.Done()
	})
	return h
}

// path is the path of one of the holder's namespaces.
func (h *Holder) path(t *testing.T, kind specs.LinuxNamespaceType) string {
	t.Helper()
	path, err := h.Namespace(kind)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// inside runs a function on a thread that is in the holder's IPC and UTS namespaces, and ends with it.
func (h *Holder) inside(t *testing.T, look func() error) {
	t.Helper()
	paths := []string{h.path(t, specs.IPCNamespace), h.path(t, specs.UTSNamespace)}
	failed := make(chan error)
	go func() {
		runtime.LockOSThread()
		failed <- func() error {
			for _, path := range paths {
				fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				if err := unix.Setns(fd, 0); err != nil {
					return err
				}
			}
			return look()
		}()
	}()
	if err := <-failed; err != nil {
		t.Error(err)
	}
}

func TestHolder(t *testing.T) {
	h := hold(t, protocol.Pod{Hostname: "barnacle", Sysctls: []protocol.Pair{
		{Name: "kernel.shmmni", Value: "123"}, {Name: "kernel/sem", Value: "1 2 3 4"}, {Name: "kernel.shm_rmid_forced", Value: "1"},
		{Name: "kernel.domainname", Value: "rock.sea"},
	}})
	h.inside(t, func() error {
		var name unix.Utsname
		if err := unix.Uname(&name); err != nil {
			return err
		}
		got := []string{unix.ByteSliceToString(name.Nodename[:]), unix.ByteSliceToString(name.Domainname[:])}
		for _, file := range []string{"shmmni", "sem", "shm_rmid_forced"} {
			text, err := os.ReadFile("/proc/sys/kernel/" + file)
			if err != nil {
				return err
			}
			got = append(got, strings.Join(strings.Fields(string(text)), " "))
		}
		if want := "barnacle rock.sea 123 1 2 3 4 1"; strings.Join(got, " ") != want {
			return fmt.Errorf("got %q, want %s", got, want)
		}
		return nil
	})
	for kind, name := range files {
		if kind == specs.UserNamespace {
			continue
		}
		ours, err := os.Readlink("/proc/self/ns/" + name)
		theirs, otherErr := os.Readlink(h.path(t, kind))
		if err != nil || otherErr != nil || ours == theirs {
			t.Errorf("%s: %s and %s, %v, %v", kind, ours, theirs, err, otherErr)
		}
	}
	for _, kind := range []specs.LinuxNamespaceType{specs.UserNamespace, specs.MountNamespace, specs.NetworkNamespace, "x"} {
		if path, err := h.Namespace(kind); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %s, %v", kind, path, err)
		}
	}
}

// TestHolderHasNoFiles: what shares a PID namespace with a holder finds nothing through it.
func TestHolderHasNoFiles(t *testing.T) {
	h := hold(t, protocol.Pod{})
	proc := fmt.Sprintf("/proc/%d", h.child.Pid())
	for _, dir := range []string{"root", "cwd"} {
		entries, err := os.ReadDir(filepath.Join(proc, dir) + "/")
		if err != nil || len(entries) != 0 {
			t.Errorf("%s: %v, %v", dir, entries, err)
		}
		if err := os.WriteFile(filepath.Join(proc, dir, "new"), nil, 0o600); err == nil {
			t.Errorf("%s can be written to", dir)
		}
	}
	mounts, err := os.ReadFile(filepath.Join(proc, "mounts"))
	if err != nil || strings.Count(string(mounts), "\n") != 1 {
		t.Errorf("mounts:\n%s%v", mounts, err)
	}
}

func TestHolderOfUsers(t *testing.T) {
	h := hold(t, protocol.Pod{
		Hostname: "barnacle", Sysctls: []protocol.Pair{{Name: "kernel.domainname", Value: "rock.sea"}},
		UIDMappings: mapped(100000), GIDMappings: mapped(200000),
	})
	if !strings.HasSuffix(h.path(t, specs.UserNamespace), "/ns/user") {
		t.Error(h.path(t, specs.UserNamespace))
	}
	for file, want := range map[string]string{"uid_map": "0 100000 65536", "gid_map": "0 200000 65536"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", h.child.Pid(), file))
		if err != nil || strings.Join(strings.Fields(string(text)), " ") != want {
			t.Errorf("%s: %s, %v", file, text, err)
		}
	}
}

// TestHolderIgnoresSignals: what a container can send does not end it, and the kernel reaps its orphans because of SIGCHLD. SIGKILL and
// SIGSTOP do not reach a PID 1 from inside its namespace.
func TestHolderIgnoresSignals(t *testing.T) {
	h := hold(t, protocol.Pod{})
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.child.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	var ignored uint64
	for line := range strings.Lines(string(status)) {
		fmt.Sscanf(line, "SigIgn:\t%x", &ignored)
	}
	for _, signal := range []unix.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE, unix.SIGALRM, unix.SIGTERM, unix.SIGCHLD,
		unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGVTALRM, unix.SIGIO, unix.SIGPWR,
	} {
		if ignored&(1<<(signal-1)) == 0 {
			t.Errorf("%v is not ignored", signal)
		}
	}
}

func TestHolderKilled(t *testing.T) {
	h := hold(t, protocol.Pod{})
	if err := h.child.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-h.Done()
	if _, err := h.Namespace(specs.IPCNamespace); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "ipc namespace") {
		t.Error(err)
	}
}

func TestStartFails(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	for name, test := range map[string]struct {
		pod   protocol.Pod
		words []string
	}{
		"value": {protocol.Pod{Sysctls: []protocol.Pair{{Name: "kernel.shmmni", Value: "many"}}},
			[]string{"sysctl kernel.shmmni", "invalid"}},
		"unknown": {protocol.Pod{Sysctls: []protocol.Pair{{Name: "fs.mqueue.nothing", Value: "1"}}},
			[]string{"sysctl fs.mqueue.nothing", "no such"}},
		"overlap": {protocol.Pod{UIDMappings: append(mapped(1), mapped(1)...), GIDMappings: mapped(1)}, []string{"namespaces", "invalid"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Start(t.Context(), agenttest.Reaper(), test.pod)
			if err == nil {
				t.Fatal("it was started")
			}
			for _, word := range test.words {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%v does not say %q", err, word)
				}
			}
		})
	}
}
