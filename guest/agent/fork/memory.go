package fork

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// extent is a part of a process's memory.
type extent struct{ start, end uintptr }

// layout is what there is of a process's memory: all that is its own, and what any process has that comes of it: code, and what the kernel
// has put there.
type layout struct {
	all  extent
	kept []extent
	// bound: there is a C library, which has told the kernel of memory that a process may not lose (rseq(2)).
	bound bool
}

// lasting are the extents that do not change while this program runs: what it executes, and all that a process can have.
var lasting = sync.OnceValues(func() (*layout, error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	found := &layout{}
	for line := range strings.Lines(string(maps)) {
		var mapping extent
		var permissions string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &mapping.start, &mapping.end, &permissions); err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		if strings.Contains(line, " [v") { // [vvar], [vdso] and [vsyscall] are the kernel's
			found.kept = append(found.kept, mapping)
			continue
		}
		found.bound = found.bound || strings.Contains(line, "/libc.so")
		found.all.end = max(found.all.end, mapping.end)
		if strings.Contains(permissions, "x") {
			found.kept = append(found.kept, mapping)
		}
	}
	return found, nil
})

// withheld are the parts of this process's memory that a process does not get: all but what it executes, the plan, and, as fork sees to
// it, the one or two pages of the stack that it stands on. Whoever may look into it finds nothing there, and the kernel has less to copy,
// and less to copy again when this process writes. In a program with a C library, which the agent is not, there are none.
func (p *Plan) withheld() []extent {
	if p.layout.bound {
		return nil
	}
	memory := uintptr(unsafe.Pointer(p.list))
	return gapsBetween(p.layout.all, append(slices.Clone(p.layout.kept), extent{memory, memory + uintptr(len(p.memory))}))
}

// advise tells the kernel whether parts of the memory are for processes (MADV_DOFORK, MADV_DONTFORK). Parts of them that are no memory are
// of no account.
func advise(parts []extent, advice uintptr) error {
	for _, part := range parts {
		_, _, errno := syscall.RawSyscall(unix.SYS_MADVISE, part.start, part.end-part.start, advice)
		if errno != 0 && errno != unix.ENOMEM {
			return fmt.Errorf("say which memory is for a new process: %w", errno)
		}
	}
	return nil
}

// pageSize is the smallest that Linux has. With larger ones madvise of parts fails.
const pageSize = 4 << 10

// stackAround are the pages of the stack that a process needs whose frame is there.
//
//go:nosplit
func stackAround(here uintptr) (low, high uintptr) {
	return (here - stackRoom) / pageSize * pageSize, (here+stackRoom)/pageSize*pageSize + pageSize
}

// gapsBetween is what of an extent is outside of others.
func gapsBetween(all extent, kept []extent) (gaps []extent) {
	slices.SortFunc(kept, func(a, b extent) int { return cmp.Compare(a.start, b.start) })
	at := all.start
	for _, e := range kept {
		if end := min(e.start, all.end); end > at {
			gaps = append(gaps, extent{at, end})
		}
		at = max(at, e.end)
	}
	if at < all.end {
		gaps = append(gaps, extent{at, all.end})
	}
	return gaps
}
