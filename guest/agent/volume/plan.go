package volume

import (
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// maxOptions is how many options a volume has at most: each that there is, once.
	maxOptions = 8
	// maxName is the longest name of a file on Linux, and maxPath the longest path.
	maxName = 255
	maxPath = 4096
	// maxShown is how much of a name that is refused goes into the error.
	maxShown = 64
)

// plan is a volume whose message was checked.
type plan struct {
	target string // path
	// Of a file system in memory: flags and data of mount(2).
	flags uintptr
	data  string
	// Of a directory of another volume: that one's name, and the way from there. Empty: a file system in memory.
	source, path string
	directory    directory
}

// directory is what a directory is made like.
type directory struct {
	mode, uid, gid uint32
}

// plan checks what is to be mounted.
func (s *Set) plan(m protocol.Mount) (plan, error) {
	target, err := s.target(m.Target)
	if err != nil {
		return plan{}, err
	}
	options, err := parseOptions(m.Options)
	if err != nil {
		return plan{}, err
	}
	switch m.FSType {
	case "tmpfs":
		return plan{target: target, flags: options.flags, data: options.data()}, nil
	case "bind":
		volume, way, err := s.source(m.Source)
		if err == nil && (options.flags != 0 || options.numbers["size"] != 0) {
			err = fmt.Errorf("a directory of a volume has a mode and an owner only: %w", errdefs.ErrInvalidArgument)
		}
		return plan{target: target, source: volume, path: way, directory: options.directory()}, err
	}
	return plan{}, fmt.Errorf("a volume of type %.*q: want tmpfs or bind: %w", maxShown, m.FSType, errdefs.ErrInvalidArgument)
}

// target makes sure that a path is one name below the root.
func (s *Set) target(target string) (string, error) {
	name, below := strings.CutPrefix(target, s.root+"/")
	if !below || !isName(name) {
		return "", fmt.Errorf("want a name of letters, digits, _, . and - below %s: %w", s.root, errdefs.ErrInvalidArgument)
	}
	return filepath.Join(s.root, name), nil
}

// source splits a path below a volume into the volume's name and the rest.
func (s *Set) source(source string) (name, way string, err error) {
	rest, below := strings.CutPrefix(source, s.root+"/")
	name, way, _ = strings.Cut(rest, "/")
	if !below || !isName(name) || way == "" || len(way) > maxPath || !filepath.IsLocal(way) || way != path.Clean(way) {
		return "", "", fmt.Errorf("source %.*q: want a directory of a volume below %s: %w", maxShown, source, s.root, errdefs.ErrInvalidArgument)
	}
	return name, way, nil
}

func isName(name string) bool {
	valid := name != "" && name != "." && name != ".." && len(name) <= maxName
	return valid && !strings.ContainsFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '.' && c != '-'
	})
}

// options are a volume's, decoded.
type options struct {
	flags   uintptr
	numbers map[string]uint64
}

// flagOptions are those without a value.
var flagOptions = map[string]uintptr{"nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC}

// numberOptions are those with a number: its base, its bits, and what it is if it is absent. A size of 0 is no limit.
var numberOptions = []struct {
	name          string
	base, bits    int
	absent, limit uint64
}{
	{"size", 10, 63, 0, 1<<63 - 1}, // bytes
	{"mode", 8, 16, 0o755, 0o7777},
	{"uid", 10, 32, 0, 1<<32 - 2}, // the highest number is no one's
	{"gid", 10, 32, 0, 1<<32 - 2},
}

func parseOptions(given []string) (options, error) {
	parsed := options{numbers: map[string]uint64{}}
	if len(given) > maxOptions {
		return parsed, fmt.Errorf("%d options: want at most %d: %w", len(given), maxOptions, errdefs.ErrInvalidArgument)
	}
	for _, option := range numberOptions {
		parsed.numbers[option.name] = option.absent
	}
	for _, text := range given {
		if !parsed.take(text) {
			return parsed, fmt.Errorf("option %.*q of a volume: %w", maxShown, text, errdefs.ErrInvalidArgument)
		}
	}
	return parsed, nil
}

// take takes an option in and tells whether there is such a one.
func (o *options) take(text string) bool {
	if flag, known := flagOptions[text]; known {
		o.flags |= flag
		return true
	}
	name, value, _ := strings.Cut(text, "=")
	for _, option := range numberOptions {
		if option.name == name {
			number, err := strconv.ParseUint(value, option.base, option.bits)
			o.numbers[name] = number
			return err == nil && number <= option.limit
		}
	}
	return false
}

// data is mount(2)'s, of a file system in memory.
func (o *options) data() string {
	var parts []string
	for _, option := range numberOptions {
		parts = append(parts, option.name+"="+strconv.FormatUint(o.numbers[option.name], option.base))
	}
	return strings.Join(parts, ",")
}

func (o *options) directory() directory {
	return directory{mode: uint32(o.numbers["mode"]), uid: uint32(o.numbers["uid"]), gid: uint32(o.numbers["gid"])}
}
