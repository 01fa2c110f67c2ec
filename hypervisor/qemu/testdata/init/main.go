// Command init is PID 1 of the guests of the driver's tests. It dials the host as soon as there is a vsock device and does what the
// host says, one line each. If it is asked to by the kernel's parameters, it parks before.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/machine"
)

// portBase plus the guest's CID is the host's port.
const portBase = 0x4c000000

func main() {
	for target, kind := range map[string]string{"/dev": "devtmpfs", "/sys": "sysfs", "/proc": "proc"} {
		must(os.MkdirAll(target, 0o755))
		must(unix.Mount(kind, target, kind, 0, ""))
	}
	must(os.MkdirAll("/share", 0o755))
	park, err := machine.ParkAsked()
	must(err)
	remembered = "parked"
	if park {
		must(machine.Park(func() {}))
	}
	fmt.Println("init: ready")
	for {
		var conn net.Conn
		must(machine.Await(context.Background(), func() (bool, error) {
			var err error
			conn, err = dial()
			return err == nil, nil
		}))
		serve(conn)
		_ = conn.Close()
	}
}

func must(err error) {
	if err != nil {
		panic(err) // the kernel panics with it
	}
}

func dial() (net.Conn, error) {
	device, err := os.Open("/dev/vsock")
	if err != nil {
		return nil, err
	}
	defer device.Close()
	cid, err := unix.IoctlGetUint32(int(device.Fd()), unix.IOCTL_VM_SOCKETS_GET_LOCAL_CID)
	if err != nil {
		return nil, err
	}
	return vsock.Dial(vsock.Host, portBase+cid, nil)
}

var remembered string

func serve(conn net.Conn) {
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		verb, argument, _ := strings.Cut(lines.Text(), " ")
		result, err := do(verb, argument)
		if err != nil {
			result = "error: " + err.Error()
		}
		fmt.Fprintln(conn, result)
	}
}

func do(verb, argument string) (string, error) {
	switch verb {
	case "remember":
		remembered = argument
		return "ok", nil
	case "recall":
		return remembered, nil
	case "mount":
		return "ok", machine.MountShare(context.Background(), argument, "/share")
	case "unmount":
		return "ok", unix.Unmount("/share", 0)
	case "eject":
		return "ok", eject(argument)
	case "read":
		text, err := os.ReadFile(argument)
		return strings.TrimSpace(string(text)), err
	case "write":
		return "ok", os.WriteFile(argument, []byte("of the guest"), 0o600)
	case "label":
		return "ok", unix.Setxattr(argument, "user.limpet", []byte("1"), 0)
	case "processors", "memory":
		return "ok", use(verb, argument)
	case "zero":
		return "ok", machine.ZeroFree()
	case "disk":
		return disk(argument)
	case "listen":
		return "ok", listen()
	case "die":
		os.Exit(3)
	case "off":
		return "", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	return "", fmt.Errorf("unknown: %s", verb)
}

// eject lets go of the device that has the virtio driver.
func eject(driver string) error {
	devices, err := filepath.Glob("/sys/bus/virtio/drivers/" + driver + "/virtio*")
	if err != nil || len(devices) != 1 {
		return fmt.Errorf("devices of %s: %v, %w", driver, devices, err)
	}
	return machine.Eject(devices[0])
}

// use puts to use that many processors, or that many bytes of added memory.
func use(what, amount string) error {
	number, err := strconv.ParseUint(amount, 10, 64)
	if err != nil {
		return err
	}
	if what == "memory" {
		return machine.AwaitMemory(context.Background(), number)
	}
	return machine.UseProcessors(number)
}

// disk waits for the disk with a serial number and says what it begins with, after it wrote there, if that can be done.
func disk(serial string) (string, error) {
	major, minor, err := machine.AwaitDisk(context.Background(), serial)
	if err != nil {
		return "", err
	}
	node := "/" + serial
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return "", err
	}
	device, err := os.OpenFile(node, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer device.Close()
	text := make([]byte, 8)
	if _, err := device.ReadAt(text, 0); err != nil {
		return "", err
	}
	_, err = device.WriteAt([]byte("by guest"), 0)
	return string(text), errors.Join(err, device.Sync())
}

// listen echoes one line of one connection to port 8000.
func listen() error {
	listener, err := vsock.Listen(8000, nil)
	if err != nil {
		return err
	}
	go func() {
		conn, err := listener.Accept()
		must(err)
		line, err := bufio.NewReader(conn).ReadString('\n')
		must(err)
		fmt.Fprint(conn, line)
	}()
	return nil
}
