package anchor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// orphanVariable makes this test's program one that starts an anchor and then waits to be killed.
const orphanVariable = "LIMPET_TEST_ORPHAN"

func TestMain(m *testing.M) {
	MainIfAsked()
	if os.Getenv(orphanVariable) == "" {
		os.Exit(m.Run())
	}
	anchor, err := Start(context.Background(), Options{Rootfs: "/"})
	if err != nil {
		os.Exit(1)
	}
	fmt.Println(anchor.PID())
	select {}
}

// TestDeathOfTheStarter kills an anchor's starter, and sees the anchor end as well.
func TestDeathOfTheStarter(t *testing.T) {
	needRoot(t)
	starter := exec.Command(os.Args[0])
	starter.Env = append(os.Environ(), orphanVariable+"=1")
	output, err := starter.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := starter.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	_, scanErr := fmt.Fscan(output, &pid)
	fd, err := unix.PidfdOpen(pid, 0)
	if err := errors.Join(scanErr, err, starter.Process.Kill()); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_ = starter.Wait()      // killed
	const patience = 10_000 // ms
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, patience); err != nil || n != 1 {
		t.Errorf("the anchor lives on: %v", err)
	}
}

func needRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("chroot and network namespaces need root")
	}
}

func start(t *testing.T, options Options) *Anchor {
	t.Helper()
	anchor, err := Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := anchor.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return anchor
}

func link(t *testing.T, pid any, name string) string {
	t.Helper()
	target, err := os.Readlink(fmt.Sprintf("/proc/%v/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestAnchor(t *testing.T) {
	needRoot(t)
	rootfs := t.TempDir()
	anchor := start(t, Options{Rootfs: rootfs})
	if got := link(t, anchor.PID(), "root"); got != rootfs {
		t.Errorf("its root is %s", got)
	}
	if got := link(t, anchor.PID(), "ns/net"); got != link(t, "self", "ns/net") {
		t.Errorf("its network namespace is %s", got)
	}
	if open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", anchor.PID())); err != nil || len(open) > 0 {
		t.Errorf("it holds %v open, %v", open, err)
	}
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1} {
		if err := syscall.Kill(anchor.PID(), signal); err != nil {
			t.Fatal(err)
		}
	}
	if err := anchor.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, ok := anchor.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %v", anchor.cmd.ProcessState)
	}
	if err := anchor.Stop(t.Context()); err != nil {
		t.Errorf("a second Stop: %v", err)
	}
}

func TestAnchorIsSmall(t *testing.T) {
	needRoot(t)
	anchor := start(t, Options{Rootfs: t.TempDir()})
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", anchor.PID()))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(status), "Threads:\t1\n") {
		t.Errorf("it did not become the sleeper:\n%s", status)
	}
}

func TestAnchorNetworkNamespaces(t *testing.T) {
	needRoot(t)
	first := start(t, Options{Rootfs: t.TempDir(), NewNetNS: true})
	own := link(t, first.PID(), "ns/net")
	if own == link(t, "self", "ns/net") {
		t.Error("it has no network namespace of its own")
	}
	second := start(t, Options{Rootfs: t.TempDir(), NetNS: fmt.Sprintf("/proc/%d/ns/net", first.PID())})
	if got := link(t, second.PID(), "ns/net"); got != own {
		t.Errorf("joined %s, not %s", got, own)
	}
}

func TestAnchorFails(t *testing.T) {
	needRoot(t)
	missing := filepath.Join(t.TempDir(), "missing")
	for _, test := range []struct {
		name    string
		options Options
	}{
		{"rootfs", Options{Rootfs: missing}},
		{"network namespace", Options{Rootfs: t.TempDir(), NetNS: missing}},
	} {
		anchor, err := Start(t.Context(), test.options)
		if err == nil || anchor != nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("%s: got %v", test.name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, Options{Rootfs: t.TempDir()}); err == nil {
		t.Error("a cancelled start succeeded")
	}
}
