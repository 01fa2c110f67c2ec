package container

import (
	"bufio"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// withHome adds root's home directory to an environment that has none: as the calling thread's /etc/passwd says, else "/".
func withHome(env []string) []string {
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
	return append(env[:len(env):len(env)], "HOME="+rootHome(passwd))
}

// maxPasswd is how much of a password file is read: root is in its first lines.
const maxPasswd = 64 << 10

// rootHome finds the home directory of user 0 in a password file: passwd(5).
func rootHome(passwd io.Reader) string {
	lines := bufio.NewScanner(io.LimitReader(passwd, maxPasswd))
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) == 7 && fields[2] == "0" && strings.HasPrefix(fields[5], "/") {
			return fields[5]
		}
	}
	return "/"
}
