package container

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultPath is where programs are looked for if the environment does not say: what crun takes.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// candidates are the files that a program may be, in the order in which they are to be tried, as execvp(3) does, with the PATH of the
// process's environment, of which the first is taken if there are several.
func candidates(program string, env []string) []string {
	if strings.Contains(program, "/") {
		return []string{program}
	}
	search := defaultPath
	for _, variable := range env {
		if value, ok := strings.CutPrefix(variable, "PATH="); ok {
			search = value
			break
		}
	}
	var files []string
	for dir := range strings.SplitSeq(search, ":") {
		file := path.Join(dir, program)
		if !strings.Contains(file, "/") {
			file = "./" + file
		}
		files = append(files, file)
	}
	return files
}

// lookup finds a program in the calling thread's root, among its candidates.
func lookup(program string, env []string) (string, error) {
	denied := false
	for _, file := range candidates(program, env) {
		switch err := executable(file); err {
		case nil:
			return file, nil
		case unix.EACCES:
			denied = true
		}
	}
	if denied {
		return "", fmt.Errorf("program %q: %w", program, unix.EACCES)
	}
	return "", fmt.Errorf("program %q not found: %w", program, unix.ENOENT)
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
