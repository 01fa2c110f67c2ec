package machine

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// idFile is where programs look for the machine's identifier, see machine-id(5).
	idFile = "/etc/machine-id"
	// hostPrefix begins the host name, hostBytes of the identifier end it.
	hostPrefix, hostBytes = "limpet-", 4
)

// Name gives the machine an identifier, and the host name that containers have which ask for none. Both are random: Reseed comes first. A
// machine that has an identifier keeps both.
func Name() error {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails: see crypto/rand
	if err := writeNew(idFile, hex.EncodeToString(id)+"\n"); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("give the machine an identifier: %w", err)
	}
	if err := unix.Sethostname([]byte(hostPrefix + hex.EncodeToString(id[:hostBytes]))); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	return nil
}

// writeNew writes a file that is not there yet, for all to read. fs.ErrExist: it is there.
func writeNew(path, text string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Close())
}
