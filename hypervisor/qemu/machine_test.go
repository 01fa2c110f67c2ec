package qemu

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
)

// TestMachine takes a machine from boot to power-off.
func TestMachine(t *testing.T) {
	l := newLab(t)
	device := l.vsock()
	share := t.TempDir()
	write(t, filepath.Join(share, "early"), "early")

	m := l.boot()
	l.check(m.Plug(l.ctx, hypervisor.Vsock{ID: "vsock0", Socket: device}))
	l.check(m.Plug(l.ctx, hypervisor.Share{ID: "share0", Tag: "limpet", Dir: share}))
	if err := m.Plug(l.ctx, hypervisor.Share{ID: "share0", Tag: "limpet", Dir: share}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second share0: %v", err)
	}
	if err := m.Pause(l.ctx); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("pause of a paused machine: %v", err)
	}
	if err := m.Unplug(l.ctx, "share0", nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("unplug from a paused machine: %v", err)
	}
	l.check(m.Resume(l.ctx))
	guest := l.greet(device)

	t.Log("files")
	guest.ask("mount limpet", "ok")
	guest.ask("read /share/early", "early")
	guest.ask("write /share/guest", "error: open /share/guest: read-only file system")
	l.attachedMount(m, guest, share)

	t.Log("dial")
	if conn, err := device.Dial(l.ctx, 8000); !errdefs.IsUnavailable(err) {
		t.Errorf("dial of a port without a listener: %v, %v", conn, err)
	}
	guest.ask("listen", "ok")
	conn, err := device.Dial(l.ctx, 8000)
	l.check(err)
	defer conn.Close()
	fmt.Fprintln(conn, "echo")
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "echo\n" {
		t.Errorf("echo: %q, %v", line, err)
	}

	if err := m.Pause(l.ctx); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("pause of a machine with daemons: %v", err)
	}

	t.Log("unplug, plug while running")
	guest.ask("unmount", "ok")
	l.check(m.Unplug(l.ctx, "share0", func(context.Context) error {
		guest.ask("eject virtiofs", "ok")
		return nil
	}))
	if n := len(m.Processes()); n != 2 {
		t.Errorf("%d processes without the share: %v", n, m.Processes())
	}
	if err := m.Unplug(l.ctx, "share0", nil); !errdefs.IsNotFound(err) {
		t.Errorf("a second unplug: %v", err)
	}
	l.check(m.Plug(l.ctx, hypervisor.Share{ID: "share1", Tag: "again", Dir: share}))
	guest.ask("mount again", "ok")
	guest.ask("read /share/early", "early")

	t.Log("power off")
	processes := m.Processes()
	guest.tell("off")
	l.check(m.Wait(l.ctx))
	l.check(m.Stop(l.ctx))
	l.check(m.Stop(l.ctx))
	l.check(device.Close())
	gone(t, processes)
	if _, err := device.Accept(l.ctx); err == nil {
		t.Error("a closed device accepts")
	}
	if err := m.Resume(l.ctx); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("resume of a stopped machine: %v", err)
	}
	if entries, err := os.ReadDir(l.config.Dir); err != nil || len(entries) > 0 {
		t.Errorf("left in the machine's directory: %v, %v", entries, err)
	}
}

// TestSaveRestore saves a machine that has parked, and makes two others of it.
func TestSaveRestore(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	if _, err := l.driver.Restore(l.ctx, l.config, dir); !errdefs.IsNotFound(err) {
		t.Errorf("restore from an empty directory: %v", err)
	}
	m := l.boot()
	l.check(m.Plug(l.ctx, hypervisor.Vsock{ID: "vsock0", Socket: l.vsock()}))
	if err := m.Save(l.ctx, dir); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("save of a machine with a device: %v", err)
	}
	l.check(m.Resume(l.ctx))
	if err := m.Save(l.ctx, dir); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("save of a running machine: %v", err)
	}
	if err := m.Parked(l.ctx); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("wait for the parking of a machine that does not park: %v", err)
	}
	l.check(m.Stop(l.ctx))

	l.config.Cmdline = append(l.config.Cmdline, protocol.ParkParameter)
	l.config.Parks = true
	m = l.boot()
	l.check(m.Resume(l.ctx))
	l.check(m.Parked(l.ctx))
	l.check(m.Save(l.ctx, dir))

	t.Log("the saved machine goes on")
	device := l.vsock()
	l.check(m.Plug(l.ctx, hypervisor.Vsock{ID: "vsock0", Socket: device}))
	l.check(m.Resume(l.ctx))
	l.greet(device).ask("recall", "parked")
	l.check(m.Stop(l.ctx))

	l.config.Parks = false
	for range 2 {
		device := l.vsock()
		m := l.own(l.driver.Restore(l.ctx, l.config, dir))
		l.check(m.Plug(l.ctx, hypervisor.Vsock{ID: "vsock0", Socket: device}))
		l.check(m.Plug(l.ctx, hypervisor.Share{ID: "share0", Tag: "limpet", Dir: t.TempDir()}))
		l.check(m.Resume(l.ctx))
		guest := l.greet(device)
		guest.ask("recall", "parked")
		guest.ask("mount limpet", "ok")
	}

	other := l.config
	other.MemoryMiB++
	if _, err := l.driver.Restore(l.ctx, other, dir); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("restore as another machine: %v", err)
	}
}

// TestPanic has the guest's kernel panic: the machine ends, and the error shows why.
func TestPanic(t *testing.T) {
	l := newLab(t)
	device := l.vsock()
	m := l.boot()
	l.check(m.Plug(l.ctx, hypervisor.Vsock{ID: "vsock0", Socket: device}))
	l.check(m.Resume(l.ctx))
	l.greet(device).tell("die")
	err := m.Wait(l.ctx)
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "Attempted to kill init") {
		t.Errorf("wait: %v", err)
	}
	if !strings.Contains(m.Console(), "init: ready") {
		t.Errorf("console: %s", m.Console())
	}
}

// TestKill kills QEMU from outside.
func TestKill(t *testing.T) {
	l := newLab(t)
	m := l.boot()
	l.check(m.Plug(l.ctx, hypervisor.Share{ID: "share0", Tag: "limpet", Dir: t.TempDir()}))
	processes := m.Processes()
	l.check(unix.Kill(processes[0].PID, unix.SIGKILL))
	if err := m.Wait(l.ctx); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("wait: %v", err)
	}
	if err := m.Resume(l.ctx); err == nil {
		t.Error("a killed machine resumes")
	}
	l.check(m.Stop(l.ctx))
	gone(t, processes)
}

// TestStop stops a machine that never ran, and one whose QEMU hangs and to which somebody does something.
func TestStop(t *testing.T) {
	l := newLab(t)
	for _, hang := range []bool{false, true} {
		m := l.boot()
		processes := m.Processes()
		if hang {
			l.check(unix.Kill(processes[0].PID, unix.SIGSTOP))
			m.turn <- struct{}{}
			canceled, cancel := context.WithCancel(l.ctx)
			cancel()
			if err := m.Stop(canceled); !errors.Is(err, context.Canceled) {
				t.Errorf("stop with a canceled context: %v", err)
			}
			<-m.turn
		}
		l.check(m.Stop(l.ctx))
		l.check(m.Wait(l.ctx))
		gone(t, processes)
	}
}

// TestShareServers has the daemons of shares started with the machine. They end with it, plugged or not.
func TestShareServers(t *testing.T) {
	l := newLab(t)
	share := hypervisor.Share{ID: "share0", Tag: "limpet", Dir: t.TempDir()}
	l.config.Shares = []hypervisor.Share{share, {ID: "share1", Tag: "other", Dir: t.TempDir()}}
	m := l.boot()
	var processes []hypervisor.Process
	for _, server := range m.servers {
		<-server.ready
		l.check(server.err)
		processes = append(processes, server.daemon.Process())
	}
	if len(processes) != 2 {
		t.Fatalf("daemons: %v", processes)
	}
	if err := m.Plug(l.ctx, hypervisor.Share{ID: "share0", Tag: "limpet", Dir: t.TempDir()}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a share of another directory: %v", err)
	}
	l.check(m.Plug(l.ctx, share))
	if plugged := m.Processes(); len(plugged) != 2 || !slices.Contains(processes, plugged[1]) {
		t.Errorf("%v of which one is to be of %v", plugged, processes)
	}
	l.check(m.Stop(l.ctx))
	gone(t, processes)
}

// TestPlugErrors checks what cannot be plugged, and that nothing is left of it.
func TestPlugErrors(t *testing.T) {
	l := newLab(t)
	m := l.boot()
	dir := t.TempDir()
	for _, test := range []struct {
		name   string
		device hypervisor.Device
		is     func(error) bool
	}{
		{"bad identifier", hypervisor.Share{ID: "a b", Tag: "limpet", Dir: dir}, errdefs.IsInvalidArgument},
		{"no tag", hypervisor.Share{ID: "a", Dir: dir}, errdefs.IsInvalidArgument},
		{"no directory", hypervisor.Share{ID: "a", Tag: "limpet", Dir: dir + "/none"}, errdefs.IsInvalidArgument},
		{"device that QEMU refuses", hypervisor.Vsock{ID: "a", Socket: stranger{}}, func(err error) bool { return err != nil }},
	} {
		if err := m.Plug(l.ctx, test.device); !test.is(err) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	for i := range hypervisor.DefaultPorts {
		l.check(m.Plug(l.ctx, hypervisor.Share{ID: fmt.Sprintf("share%d", i), Tag: fmt.Sprintf("tag%d", i), Dir: dir}))
	}
	if err := m.Plug(l.ctx, hypervisor.Share{ID: "more", Tag: "more", Dir: dir}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("one device too many: %v", err)
	}
	disk, err := os.Open(l.loopDevice(""))
	l.check(err)
	defer disk.Close()
	err = m.Plug(l.ctx, hypervisor.Disk{ID: "disk", File: disk, ReadOnly: true})
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), fmt.Sprintf("all %d ports", hypervisor.DefaultPorts)) {
		t.Errorf("a disk without a port: %v", err)
	}
	if n := len(m.Processes()); n != 1+hypervisor.DefaultPorts {
		t.Errorf("%d processes", n)
	}
}

// stranger is a vsock device whose file is none.
type stranger struct{}

func (stranger) CID() uint32                     { return 3 }
func (stranger) Processes() []hypervisor.Process { return nil }
func (stranger) Attachment() hypervisor.VsockAttachment {
	return hypervisor.VsockAttachment{VhostUser: true, File: os.Stdin}
}

// attachedMount has a directory of the host in the machine's share for a while. The host's own view of the share stays empty.
func (l *lab) attachedMount(m hypervisor.Machine, guest *guest, share string) {
	l.Helper()
	source, below := l.TempDir(), filepath.Join(share, "below")
	write(l.T, filepath.Join(source, "late"), "late")
	l.check(os.Mkdir(below, 0o755))
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	l.check(err)
	tree := os.NewFile(uintptr(fd), source)
	defer tree.Close()
	if err := m.AttachMount("share0", "../below", tree); !errdefs.IsInvalidArgument(err) {
		l.Errorf("a mount outside of the share: %v", err)
	}
	if err := m.AttachMount("none", "below", tree); !errdefs.IsNotFound(err) {
		l.Errorf("a mount in no share: %v", err)
	}
	l.check(m.AttachMount("share0", "below", tree))
	guest.ask("read /share/below/late", "late")
	guest.ask("write /share/below/guest", "ok")
	guest.ask("label /share/below/guest", "ok")
	if text, err := os.ReadFile(filepath.Join(source, "guest")); string(text) != "of the guest" {
		l.Errorf("the guest's file: %q, %v", text, err)
	}
	if entries, err := os.ReadDir(below); err != nil || len(entries) > 0 {
		l.Errorf("mounted on the host: %v, %v", entries, err)
	}
	l.check(os.Remove(below)) // takes the mount along
	for _, process := range m.Processes() {
		if mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", process.PID)); err != nil || bytes.Contains(mounts, []byte("/below ")) {
			l.Errorf("mounts of %s: %s, %v", process.Name, mounts, err)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// gone checks that none of the processes is left.
func gone(t *testing.T, processes []hypervisor.Process) {
	t.Helper()
	for _, process := range processes {
		now, err := hypervisor.NewProcess(process.Name, process.PID)
		if err == nil && now == process {
			t.Errorf("left behind: %+v", process)
		}
	}
}
