package container

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxAccounts is how much of a password or group file is read, in bytes: tens of thousands of lines.
const maxAccounts = 1 << 20

// resolveUser replaces a user's name by numbers, as the password and group files of a root file system have them. The name is
// USER[:GROUP], each a name or a number; without a group the user has those of the files. A user without a name stays as he is; a name that
// is not in the files is an ErrInvalidArgument.
func resolveUser(rootfs string, user *specs.User) error {
	if user.Username == "" {
		return nil
	}
	passwd, err := accounts(rootfs, "etc/passwd")
	if err != nil {
		return err
	}
	group, err := accounts(rootfs, "etc/group")
	if err != nil {
		return err
	}
	resolved, err := findUser(user.Username, passwd, group)
	if err != nil {
		return fmt.Errorf("user %q: %w: %w", user.Username, err, errdefs.ErrInvalidArgument)
	}
	resolved.Umask = user.Umask
	*user = resolved
	return nil
}

// accounts reads the lines of an account file below rootfs, as fields. A file that is not there has none.
func accounts(rootfs, name string) ([][]string, error) {
	root, err := os.Open(rootfs)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	// Links are followed as in the container. Whatever is there, the opening does not block.
	fd, err := unix.Openat2(int(root.Fd()), name, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT,
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open /%s of the container: %w", name, err)
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	var entries [][]string
	lines := bufio.NewScanner(io.LimitReader(file, maxAccounts))
	lines.Buffer(nil, maxAccounts)
	for lines.Scan() {
		entries = append(entries, strings.Split(lines.Text(), ":"))
	}
	return entries, lines.Err()
}

// findUser finds a user and his groups in the entries of passwd(5) and group(5).
func findUser(name string, passwd, group [][]string) (specs.User, error) {
	var user specs.User
	account, groupName, hasGroup := strings.Cut(name, ":")
	uid, isNumber := parseID(account)
	login := ""
	i := slices.IndexFunc(passwd, func(entry []string) bool {
		if len(entry) < 4 {
			return false
		}
		id, ok := parseID(entry[2])
		return ok && (entry[0] == account || isNumber && id == uid)
	})
	switch {
	case i >= 0:
		login = passwd[i][0]
		user.UID, _ = parseID(passwd[i][2])
		user.GID, _ = parseID(passwd[i][3])
	case isNumber:
		user.UID = uid
	default:
		return user, errors.New("the container's /etc/passwd has no such user")
	}
	if !hasGroup {
		user.AdditionalGids = memberships(login, group)
		return user, nil
	}
	if gid, ok := parseID(groupName); ok {
		user.GID = gid
		return user, nil
	}
	for _, entry := range group {
		if len(entry) >= 3 && entry[0] == groupName {
			if gid, ok := parseID(entry[2]); ok {
				user.GID = gid
				return user, nil
			}
		}
	}
	return user, fmt.Errorf("the container's /etc/group has no group %q", groupName)
}

// memberships are the groups that list a user.
func memberships(login string, group [][]string) []uint32 {
	var gids []uint32
	for _, entry := range group {
		if len(entry) < 4 || login == "" || !slices.Contains(strings.Split(entry[3], ","), login) {
			continue
		}
		if gid, ok := parseID(entry[2]); ok {
			gids = append(gids, gid)
		}
	}
	return gids
}

// parseID reads the number of a user or group.
func parseID(text string) (uint32, bool) {
	number, err := strconv.ParseUint(text, 10, 32)
	return uint32(number), err == nil && number < math.MaxUint32 // which stands for none
}
