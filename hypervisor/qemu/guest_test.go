package qemu

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/hypervisor/vsock"
)

// testTimeout bounds a test with a guest: a boot takes a second under emulation, and ten on a busy host.
const testTimeout = 2 * time.Minute

// portBase is testdata/init's.
const portBase = 0x4c000000

// lab is what a test needs to make machines.
type lab struct {
	*testing.T
	ctx    context.Context
	driver *Driver
	config hypervisor.Config
}

func newLab(t *testing.T) *lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	return &lab{
		T:      t,
		ctx:    ctx,
		driver: New(Options{Path: "qemu-system-x86_64", Logger: logger}),
		config: hypervisor.Config{
			Name:        strings.ToLower(t.Name()),
			Dir:         shortDir(t),
			Kernel:      find(t, "LIMPET_KERNEL", "vmlinux", "/usr/lib/limpet/vmlinux"),
			Initrd:      initramfs(t),
			Cmdline:     []string{"quiet"},
			VCPUs:       1,
			MemoryMiB:   128,
			Accelerator: hypervisor.AcceleratorAuto,
		},
	}
}

// shortDir is a temporary directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "limpet")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// find returns the path that the environment variable gives, or the first that is there: in the project's build directory, or
// installed.
func find(t *testing.T, variable, name, installed string) string {
	t.Helper()
	if path := os.Getenv(variable); path != "" {
		return path
	}
	for _, path := range []string{filepath.Join(os.Getenv("LIMPET_BUILD"), name), filepath.Join("../../build", name), installed} {
		if absolute, err := filepath.Abs(path); err == nil {
			if _, err := os.Stat(absolute); err == nil {
				return absolute
			}
		}
	}
	t.Fatalf("%s is missing: run `make guest`, or set %s", name, variable)
	return ""
}

var buildInitramfs = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "limpet")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-o", program, "./testdata/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the guest's init: %w: %s", err, output)
	}
	text, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	cpio(&archive, "dev", 0o40755, 0, nil)
	cpio(&archive, "dev/console", 0o20600, 1, nil)
	cpio(&archive, "init", 0o100755, 0, text)
	cpio(&archive, "TRAILER!!!", 0, 0, nil)
	return archive.Bytes(), nil
})

// cpio writes a member of a newc archive (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst). The only
// device is console, 5:1.
func cpio(archive *bytes.Buffer, name string, mode, minor int, data []byte) {
	major := 5 * minor
	fmt.Fprintf(archive, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		0, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	archive.WriteString(name + "\x00")
	pad(archive)
	archive.Write(data)
	pad(archive)
}

func pad(archive *bytes.Buffer) {
	for archive.Len()%4 != 0 {
		archive.WriteByte(0)
	}
}

func initramfs(t *testing.T) string {
	t.Helper()
	archive, err := buildInitramfs()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(path, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// boot starts a machine that ends with the test at the latest.
func (l *lab) boot() *machine {
	l.Helper()
	m, err := l.driver.Boot(l.ctx, l.config)
	return l.own(m, err)
}

func (l *lab) own(m hypervisor.Machine, err error) *machine {
	l.Helper()
	l.check(err)
	l.Cleanup(func() {
		if l.Failed() {
			l.Logf("console:\n%s", m.Console())
		}
		if err := m.Stop(context.Background()); err != nil {
			l.Error(err)
		}
	})
	return m.(*machine)
}

func (l *lab) check(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// vsock makes a device that ends with the test at the latest, but after the machines that are made later.
func (l *lab) vsock() vsock.Device {
	l.Helper()
	device, err := vsock.New(l.ctx, vsock.Options{
		Backend:         vsock.BackendAuto,
		Dir:             shortDir(l.T),
		Daemon:          vsockDaemon(l.T),
		SessionPortBase: portBase,
		Logger:          slog.New(slog.NewTextHandler(l.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	l.check(err)
	l.Cleanup(func() {
		if err := device.Close(); err != nil {
			l.Error(err)
		}
	})
	return device
}

func vsockDaemon(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("vhost-device-vsock"); err == nil {
		return path
	}
	return find(t, "LIMPET_VSOCK_DAEMON", "bin/vhost-device-vsock", "/usr/bin/vhost-device-vsock")
}

// guest is a connection of testdata/init.
type guest struct {
	*lab
	conn  net.Conn
	lines *bufio.Scanner
}

// greet waits until the guest dials.
func (l *lab) greet(device vsock.Device) *guest {
	l.Helper()
	conn, err := device.Accept(l.ctx)
	l.check(err)
	deadline, _ := l.ctx.Deadline()
	l.check(conn.SetDeadline(deadline))
	l.Cleanup(func() { _ = conn.Close() })
	return &guest{lab: l, conn: conn, lines: bufio.NewScanner(conn)}
}

// tell has the guest do something.
func (g *guest) tell(command string) {
	g.Helper()
	_, err := fmt.Fprintln(g.conn, command)
	g.check(err)
}

// ask has the guest do something and checks what it says.
func (g *guest) ask(command, want string) {
	g.Helper()
	g.tell(command)
	if !g.lines.Scan() {
		g.Fatalf("%s: the guest hung up: %v", command, g.lines.Err())
	}
	if got := g.lines.Text(); got != want {
		g.Fatalf("%s: got %q, want %q", command, got, want)
	}
}
