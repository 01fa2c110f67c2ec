// Command guestinit is an init for test machines, in place of limpet's agent. What it does is said by the parameter
// limpet_test of the kernel's command line, which the kernel gives to init as an environment variable:
//
//	(none)            nothing, ever
//	limpet_test=off   power off
//	limpet_test=send  dial the host on the session port, write bytes as fast as they are taken, and power off
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// size is how many bytes are sent. The program that receives them knows it, too.
const size = 256 << 20

func main() {
	switch os.Getenv("limpet_test") {
	case "off":
		powerOff()
	case "send":
		if err := send(); err != nil {
			fmt.Fprintln(os.Stderr, "guestinit:", err)
		}
		powerOff()
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

func powerOff() {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintln(os.Stderr, "guestinit: power off:", err)
	}
}
