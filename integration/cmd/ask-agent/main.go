// Command ask-agent asks an ssh-agent which keys it has, at the socket that SSH_AUTH_SOCK names, and prints how long its answer is. It is
// for containers without any library.
package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
)

func main() {
	length, err := ask(os.Getenv("SSH_AUTH_SOCK"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "ask-agent:", err)
		os.Exit(1)
	}
	fmt.Println(length)
}

func ask(path string) (length int, err error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	const requestIdentities, identitiesAnswer = 11, 12 // draft-ietf-sshm-ssh-agent
	if _, err := conn.Write([]byte{0, 0, 0, 1, requestIdentities}); err != nil {
		return 0, err
	}
	var prefix [4]byte
	if _, err := io.ReadFull(conn, prefix[:]); err != nil {
		return 0, err
	}
	answer := make([]byte, binary.BigEndian.Uint32(prefix[:]))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return 0, err
	}
	if len(answer) == 0 || answer[0] != identitiesAnswer {
		return 0, fmt.Errorf("it answered %x", answer)
	}
	return len(answer), nil
}
