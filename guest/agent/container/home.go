package container

import (
	"bufio"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// withHome adds a user's home directory to an environment that has none: as the calling thread's /etc/passwd says, else "/".
func withHome(env []string, uid uint32) []string {
	for _, variable := range env {
		if strings.HasPrefix(variable, "HOME=") {
			return env
		}
	}
	// Whatever the container has there: it is opened so that it cannot block.
	passwd, err := os.OpenFile("/etc/passwd", os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return append(env[:len(env):len(env)], "HOME=/")
	}
	defer passwd.Close()
	return append(env[:len(env):len(env)], "HOME="+homeOf(passwd, uid))
}

// maxPasswd is how much of a password file is read, in bytes: hundreds of lines.
const maxPasswd = 64 << 10

// homeOf finds a user's home directory in a password file: passwd(5).
func homeOf(passwd io.Reader, uid uint32) string {
	lines := bufio.NewScanner(io.LimitReader(passwd, maxPasswd))
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) != 7 || !strings.HasPrefix(fields[5], "/") {
			continue
		}
		if id, ok := parseID(fields[2]); ok && id == uid {
			return fields[5]
		}
	}
	return "/"
}
