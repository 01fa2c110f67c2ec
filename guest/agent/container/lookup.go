package container

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultPath is where programs are looked for if the environment does not say: what crun takes.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookup finds a program in the calling thread's root as execvp(3) does, with the PATH of the process's environment, of which the first
// is taken if there are several.
func lookup(program string, env []string) (string, error) {
	if strings.Contains(program, "/") {
		if err := executable(program); err != nil {
			return "", fmt.Errorf("program %q: %w", program, err)
		}
		return program, nil
	}
	search := defaultPath
	for _, variable := range env {
		if value, ok := strings.CutPrefix(variable, "PATH="); ok {
			search = value
			break
		}
	}
	denied := false
	for _, dir := range strings.Split(search, ":") {
		if dir == "" {
			dir = "."
		}
		file := path.Join(dir, program)
		if !strings.Contains(file, "/") {
			file = "./" + file
		}
		switch err := executable(file); err {
		case nil:
			return file, nil
		case unix.EACCES:
			denied = true
		}
	}
	if denied {
		return "", fmt.Errorf("program %q in $PATH: %w", program, unix.EACCES)
	}
	return "", fmt.Errorf("program %q not found in $PATH: %w", program, unix.ENOENT)
}

// executable tells whether a file is one that can be executed, in the eyes of the calling thread.
func executable(file string) error {
	var stat unix.Stat_t
	if err := unix.Stat(file, &stat); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return unix.EACCES
	}
	return unix.Access(file, unix.X_OK)
}
