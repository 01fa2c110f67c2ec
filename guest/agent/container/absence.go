package container

import (
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// absences remembers where a container's programs are not. Most are in one of the last directories of their PATH, and the file share keeps
// no answer that there is no such file: each goes to the host again, which takes an emulated guest half a millisecond.
//
// A file that is absent stays so as long as its directory is the same and has not changed. The guest knows that of itself, or for as long
// as it trusts what the host has said of a directory: a second.
type absences struct {
	mu    sync.Mutex
	known map[string]absence // by candidates
}

// absence is that of the first few candidates.
type absence struct {
	count int
	dirs  map[string]version // where they, or directories on the way to them, would be
}

// version is what a directory has been at some time.
type version struct {
	device, inode     uint64
	modified, changed unix.Timespec
}

const (
	// maxAbsences is how many are remembered: a container has a handful of programs that are executed in it again and again.
	maxAbsences = 64
	// settlingTime is how long ago a directory's last change must be: in the same tick of a clock it may have changed once more, and the
	// host's clock is not quite the guest's.
	settlingTime = 2 * time.Second
)

// skip returns the candidates without those at the beginning that are known to be absent or, if nothing is known of them, are. It leaves
// out none if all are absent. Files are looked for in the calling thread's root.
func (a *absences) skip(files []string, now time.Time) []string {
	if len(files) < 2 {
		return files
	}
	key := strings.Join(files, ":")
	a.mu.Lock()
	known, ok := a.known[key]
	a.mu.Unlock()
	if ok && known.holds() {
		return files[known.count:]
	}
	s := search{now: now, entries: map[string]entry{}, dirs: map[string]version{}, lasting: true}
	for s.count < len(files) && s.absent(files[s.count]) {
		s.count++
	}
	if s.count == len(files) {
		return files
	}
	if s.lasting {
		a.remember(key, absence{s.count, s.dirs})
	}
	return files[s.count:]
}

func (a *absences) remember(key string, known absence) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil || len(a.known) == maxAbsences {
		a.known = map[string]absence{}
	}
	a.known[key] = known
}

// holds tells whether the directories are what they were.
func (a absence) holds() bool {
	for dir, before := range a.dirs {
		if e := look(dir); e.err != nil || e.version != before {
			return false
		}
	}
	return true
}

// search is one for files that are absent.
type search struct {
	now     time.Time
	entries map[string]entry // what has been looked at
	count   int
	dirs    map[string]version
	lasting bool // what is found will be true later
}

// absent tells whether a file does not exist. It is sure only if it says so.
func (s *search) absent(file string) bool {
	if !path.IsAbs(file) {
		return false
	}
	dir := "/"
	for name := range strings.SplitSeq(file[1:], "/") {
		at := path.Join(dir, name)
		switch e := s.look(at); {
		case e.err == unix.ENOENT && !e.link:
			parent := s.look(dir)
			s.dirs[dir] = parent.version
			s.lasting = s.lasting && parent.err == nil && parent.version.settled(s.now)
			return true
		case e.err != nil:
			return false
		}
		dir = at
	}
	return false
}

// look is look, once for each path.
func (s *search) look(path string) entry {
	e, ok := s.entries[path]
	if !ok {
		e = look(path)
		s.entries[path] = e
	}
	return e
}

// entry is what there is at a path.
type entry struct {
	version
	link bool // it is a symbolic link; the rest is what that leads to
	err  error
}

func look(path string) (e entry) {
	var stat unix.Stat_t
	e.err = unix.Lstat(path, &stat)
	if e.err == nil && stat.Mode&unix.S_IFMT == unix.S_IFLNK {
		e.link = true
		e.err = unix.Stat(path, &stat)
	}
	e.version = version{stat.Dev, stat.Ino, stat.Mtim, stat.Ctim}
	return e
}

// settled tells whether the last change was long enough ago.
func (v version) settled(now time.Time) bool {
	before := now.Add(-settlingTime)
	return time.Unix(v.modified.Unix()).Before(before) && time.Unix(v.changed.Unix()).Before(before)
}
