package execsidecar

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// send sends one datagram, and descriptors with it.
func send(conn *net.UnixConn, data []byte, files ...*os.File) error {
	var rights []byte
	if len(files) > 0 {
		var fds []int
		for _, file := range files {
			fds = append(fds, int(file.Fd()))
		}
		rights = unix.UnixRights(fds...)
	}
	_, _, err := conn.WriteMsgUnix(data, rights, nil)
	if errors.Is(err, unix.EMSGSIZE) {
		return fmt.Errorf("%d bytes are too many for a datagram here (net.core.wmem_default): %w", len(data), err)
	}
	return err
}

// receive receives one datagram of at most size bytes. The other side's end is io.EOF.
func receive(conn *net.UnixConn, size int) ([]byte, error) {
	// Descriptors that come with it are closed by the kernel, as no place is given for them.
	data := make([]byte, size)
	n, _, flags, _, err := conn.ReadMsgUnix(data, nil)
	if err != nil {
		return nil, err
	}
	if flags&unix.MSG_TRUNC != 0 {
		return nil, fmt.Errorf("%w: longer than %d bytes", errMalformed, size)
	}
	return data[:n], nil
}

// receiveFiles is receive of a datagram that comes with descriptors. They are the caller's.
func receiveFiles(conn *net.UnixConn, size int) (data []byte, files []*os.File, err error) {
	data, rights := make([]byte, size), make([]byte, unix.CmsgSpace(maxDescriptors*4))
	n, rightsN, flags, _, err := conn.ReadMsgUnix(data, rights)
	if err != nil {
		return nil, nil, err
	}
	files, err = openRights(rights[:rightsN])
	switch {
	case err != nil:
	case flags&unix.MSG_CTRUNC != 0 || len(files) > maxDescriptors:
		err = fmt.Errorf("%w: more than %d descriptors", errMalformed, maxDescriptors)
	case flags&unix.MSG_TRUNC != 0:
		err = fmt.Errorf("%w: longer than %d bytes", errMalformed, size)
	}
	if err != nil {
		closeFiles(files)
		return nil, nil, err
	}
	return data[:n], files, nil
}

// openRights takes the descriptors that have come. They are closed on exec already.
func openRights(rights []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, fmt.Errorf("%w: descriptors: %w", errMalformed, err)
	}
	var files []*os.File
	for _, message := range messages {
		fds, err := unix.ParseUnixRights(&message)
		if err != nil {
			continue // some other message
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), fmt.Sprintf("descriptor %d of a client", len(files))))
		}
	}
	return files, nil
}

// closeFiles closes those that there are.
func closeFiles(files []*os.File) {
	for _, file := range files {
		if file != nil {
			_ = file.Close() // it is only our copy of a descriptor
		}
	}
}
