package container

import (
	"bufio"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// withHome adds a home directory to an environment that has none.
func withHome(env []string, home func() string) []string {
	for _, variable := range env {
		if strings.HasPrefix(variable, "HOME=") {
			return env
		}
	}
	return append(env[:len(env):len(env)], "HOME="+home())
}

// passwdFile has the home directories of users.
const passwdFile = "/etc/passwd"

// homes remembers the home directories of a container's users, for as long as its password file is the same and has not changed: see
// absences.
type homes struct {
	mu     sync.Mutex
	passwd version
	known  map[uint32]string
}

// maxHomes is how many are remembered: few containers have programs of more than two users.
const maxHomes = 64

// of is readHome, which is asked no more than it has to be.
func (h *homes) of(uid uint32, now time.Time) string {
	passwd := look(passwdFile)
	h.mu.Lock()
	home, ok := h.known[uid]
	ok = ok && passwd.err == nil && passwd.version == h.passwd
	h.mu.Unlock()
	if ok {
		return home
	}
	home = readHome(uid)
	if passwd.err != nil || !passwd.settled(now) {
		return home
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if passwd.version != h.passwd || len(h.known) == maxHomes {
		h.passwd, h.known = passwd.version, map[uint32]string{}
	}
	h.known[uid] = home
	return home
}

// readHome is a user's home directory as the calling thread's password file has it; "/" if it does not.
func readHome(uid uint32) string {
	// Whatever the container has there: it is opened so that it cannot block.
	passwd, err := os.OpenFile(passwdFile, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "/"
	}
	defer passwd.Close()
	return homeOf(passwd, uid)
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
