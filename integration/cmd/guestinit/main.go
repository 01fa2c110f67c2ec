// Command guestinit is an init for test machines, in place of limpet's agent. What it does is said by the parameter
// limpet_test of the kernel's command line, which the kernel gives to init as an environment variable:
//
//	(none)            nothing, ever
//	limpet_test=off   power off
//	limpet_test=send  dial the host on the session port, write bytes as fast as they are taken, and power off
//	limpet_test=tcp   give the first network card the address 10.99.0.2/24, and serve TCP
//
// As another process, with the argument "serve", it serves TCP only: a byte 's' that comes first is answered with many bytes, an 'e'
// with all that follows it.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/mdlayher/vsock"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// size is how many bytes are sent. The program that receives them knows it, too.
const size = 256 << 20

func main() {
	if len(os.Args) == 2 && os.Args[1] == "serve" {
		fmt.Fprintln(os.Stderr, "guestinit:", serve())
		os.Exit(1)
	}
	switch os.Getenv("limpet_test") {
	case "off":
		powerOff()
	case "send":
		if err := send(); err != nil {
			fmt.Fprintln(os.Stderr, "guestinit:", err)
		}
		powerOff()
	case "tcp":
		if err := errors.Join(raise("lo", "127.0.0.1/8"), raise("eth0", "10.99.0.2/24")); err != nil {
			fmt.Fprintln(os.Stderr, "guestinit:", err)
		}
		fmt.Fprintln(os.Stderr, "guestinit:", serve())
	}
	for {
		_ = unix.Pause() // an empty select would be a deadlock to Go, and the end of the machine
	}
}

func send() error {
	// The device /dev/vsock tells the CID; the kernel makes it in the devtmpfs.
	if err := unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	cid, err := vsock.ContextID()
	if err != nil {
		return err
	}
	conn, err := vsock.Dial(vsock.Host, protocol.SessionPortBase+cid, nil)
	if err != nil {
		return err
	}
	buffer := make([]byte, protocol.MaxWrite)
	for left := size; left > 0; left -= len(buffer) {
		if _, err := conn.Write(buffer[:min(left, len(buffer))]); err != nil {
			return err
		}
	}
	// The host closes when it has them all; a guest that closes first could lose what is still under way.
	if _, err := conn.Read(buffer); err != io.EOF && !errors.Is(err, unix.ECONNRESET) {
		return err
	}
	return nil
}

// raise gives an interface an address and turns it on.
func raise(name, address string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	parsed, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, parsed); err != nil {
		return fmt.Errorf("give %s the address %s: %w", name, address, err)
	}
	return netlink.LinkSetUp(link)
}

// serve serves TCP. It returns only if it cannot.
func serve() error {
	listener, err := net.Listen("tcp4", ":7")
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go answer(conn)
	}
}

// answer serves one connection. Whoever asked notices when it is not done.
func answer(conn net.Conn) {
	defer conn.Close()
	buffer := make([]byte, 64<<10)
	if _, err := io.ReadFull(conn, buffer[:1]); err != nil {
		return
	}
	switch buffer[0] {
	case 'e':
		_, _ = io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}, buffer)
	case 's':
		for left := size; left > 0; left -= len(buffer) {
			if _, err := conn.Write(buffer[:min(left, len(buffer))]); err != nil {
				return
			}
		}
	}
}

func powerOff() {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintln(os.Stderr, "guestinit: power off:", err)
	}
}
