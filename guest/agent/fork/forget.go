package fork

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// extent is a part of a process's memory.
type extent struct{ start, end uintptr }

// layout is what there is of a process's memory: all, and code.
type layout struct {
	all  extent
	code []extent
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
		if strings.HasSuffix(line, "[vsyscall]\n") { // the kernel's
			continue
		}
		found.bound = found.bound || strings.Contains(line, "/libc.so")
		found.all.end = max(found.all.end, mapping.end)
		if strings.Contains(permissions, "x") {
			found.code = append(found.code, mapping)
		}
	}
	return found, nil
})

// Forget has the process lose what it has of this process's memory, but for what it executes, the plan, and the one or two pages of the
// stack that it stands on. Whoever may look into it from then on finds nothing there. In a program with a C library, which the agent is
// not, it does nothing.
func (p *Plan) Forget() {
	if p.err != nil || p.layout.bound {
		return
	}
	memory := uintptr(unsafe.Pointer(p.list))
	gaps := gapsBetween(p.layout.all, append(slices.Clone(p.layout.code), extent{memory, memory + uintptr(len(p.memory))}))
	p.list.forget, p.gaps = p.count, len(gaps)+1
	for _, gap := range gaps {
		p.Call("forget", unix.SYS_MUNMAP, gap.start, gap.end-gap.start)
	}
	p.Call("forget", unix.SYS_MUNMAP) // what keepStack makes of it
}

// keepStack leaves the pages of the stack that the caller stands on out of what is forgotten: the gap that they are in becomes two.
//
//go:norace
//go:nosplit
func (l *list) keepStack(here uintptr) {
	if l.gaps == 0 {
		return
	}
	low, high := stackBelow(here), (here+stackRoom)/pageSize*pageSize+pageSize
	last := &l.calls[l.forget+l.gaps-1]
	for i := l.forget; i < l.forget+l.gaps-1; i++ {
		c := &l.calls[i]
		end := c.args[0] + c.args[1]
		if c.args[0] < here && here < end {
			c.args[1] = low - c.args[0]
			last.args[0], last.args[1] = high, end-high
		}
	}
}

// pageSize is the smallest that Linux has. With larger ones an munmap of parts fails, and with it the process.
const pageSize = 4 << 10

// stackBelow is where the pages begin that a process needs whose frame is there.
//
//go:nosplit
func stackBelow(here uintptr) uintptr { return (here - stackRoom) / pageSize * pageSize }

// gapsBetween is what of an extent is outside of others.
func gapsBetween(all extent, kept []extent) (gaps []extent) {
	slices.SortFunc(kept, func(a, b extent) int { return cmp.Compare(a.start, b.start) })
	at := all.start
	for _, e := range kept {
		if e.start > at {
			gaps = append(gaps, extent{at, e.start})
		}
		at = max(at, e.end)
	}
	if at < all.end {
		gaps = append(gaps, extent{at, all.end})
	}
	return gaps
}
