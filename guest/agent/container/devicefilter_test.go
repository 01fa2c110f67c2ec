package container

import (
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/agenttest"
)

// ask runs a device program as the kernel does.
func ask(t *testing.T, program []instruction, kind, access, major, minor uint32) bool {
	t.Helper()
	given := map[int16]uint32{0: access<<16 | kind, 4: major, 8: minor}
	var registers [11]uint32
	for at := 0; ; at++ {
		i := program[at]
		target, source := i.registers&15, i.registers>>4
		operand := uint32(i.value)
		if i.code&unix.BPF_X != 0 {
			operand = registers[source]
		}
		switch i.code &^ unix.BPF_X {
		case unix.BPF_LDX | unix.BPF_MEM:
			registers[target] = given[i.offset]
		case unix.BPF_ALU | unix.BPF_MOV, unix.BPF_ALU64 | unix.BPF_MOV:
			registers[target] = operand
		case unix.BPF_ALU | unix.BPF_AND:
			registers[target] &= operand
		case unix.BPF_ALU | unix.BPF_RSH:
			registers[target] >>= operand
		case unix.BPF_JMP32 | unix.BPF_JNE:
			if registers[target] != operand {
				at += int(i.offset)
			}
		case unix.BPF_JMP | unix.BPF_EXIT:
			return registers[0] == 1
		default:
			t.Fatalf("instruction %d: %#x", at, i.code)
		}
	}
}

func TestDeviceFilter(t *testing.T) {
	const c, b = unix.BPF_DEVCG_DEV_CHAR, unix.BPF_DEVCG_DEV_BLOCK
	const r, w, m = unix.BPF_DEVCG_ACC_READ, unix.BPF_DEVCG_ACC_WRITE, unix.BPF_DEVCG_ACC_MKNOD
	number := func(n int64) *int64 { return &n }
	denyAll := specs.LinuxDeviceCgroup{Access: "rwm"}
	fuse := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: number(10), Minor: number(229), Access: "rw"}
	disks := specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: number(8), Minor: number(-1), Access: "r"}
	all := specs.LinuxDeviceCgroup{Allow: true, Type: "a", Access: "rwm"}
	noConsoles := specs.LinuxDeviceCgroup{Type: "c", Major: number(4), Access: "rwm"}
	for name, test := range map[string]struct {
		rules        []specs.LinuxDeviceCgroup
		kind, access uint32
		major, minor uint32
		want         bool
	}{
		"the usual, if nothing is said":   {nil, c, r | w | m, 1, 3, true},
		"any node, if nothing is said":    {nil, b, m, 8, 0, true},
		"nothing else":                    {nil, b, r, 8, 0, false},
		"the usual, if all is refused":    {[]specs.LinuxDeviceCgroup{denyAll}, c, r, 1, 3, true},
		"all others refused":              {[]specs.LinuxDeviceCgroup{denyAll}, c, r, 1, 1, false},
		"one allowed":                     {[]specs.LinuxDeviceCgroup{denyAll, fuse}, c, r | w, 10, 229, true},
		"one allowed, in part":            {[]specs.LinuxDeviceCgroup{denyAll, fuse}, c, r, 10, 229, true},
		"more than is allowed":            {[]specs.LinuxDeviceCgroup{denyAll, fuse}, c, r | m, 10, 229, false},
		"another one":                     {[]specs.LinuxDeviceCgroup{denyAll, fuse}, c, r, 10, 228, false},
		"of another type":                 {[]specs.LinuxDeviceCgroup{denyAll, fuse}, b, r, 10, 229, false},
		"all of a major number":           {[]specs.LinuxDeviceCgroup{denyAll, disks}, b, r, 8, 17, true},
		"all":                             {[]specs.LinuxDeviceCgroup{denyAll, all}, b, r | w | m, 8, 17, true},
		"the last that fits":              {[]specs.LinuxDeviceCgroup{all, noConsoles}, c, r, 4, 0, false},
		"what the last that fits is past": {[]specs.LinuxDeviceCgroup{all, noConsoles}, c, r, 3, 0, true},
	} {
		program, err := deviceFilter(test.rules)
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, program, test.kind, test.access, test.major, test.minor); got != test.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
	for _, bad := range []specs.LinuxDeviceCgroup{{Type: "x"}, {Type: "c", Major: number(1 << 40)}} {
		if _, err := deviceFilter([]specs.LinuxDeviceCgroup{bad}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// TestUsualRules: rules that allow what every container may do anyway make no difference to the program.
func TestUsualRules(t *testing.T) {
	program := func(rules ...specs.LinuxDeviceCgroup) []instruction {
		made, err := deviceFilter(rules)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	denyAll := specs.LinuxDeviceCgroup{Access: "rwm"}
	plain := program(denyAll)
	for name, c := range map[string]struct {
		rule specs.LinuxDeviceCgroup
		same bool
	}{
		"null": {rule("c", 1, 3, "rwm"), true}, "to read it": {rule("c", 1, 3, "r"), true}, "any node": {rule("c", -1, -1, "m"), true},
		"a terminal": {rule("c", 136, 7, "rw"), true}, "fuse": {rule("c", 10, 229, "rwm"), false}, "all of memory's": {rule("c", 1, -1, "r"), false},
		"a disk": {rule("b", 1, 3, "rwm"), false}, "nothing": {rule("c", 1, 3, ""), false},
		"null refused": {specs.LinuxDeviceCgroup{Type: "c", Access: "rwm"}, false},
	} {
		if got := slices.Equal(program(denyAll, c.rule), plain); got != c.same {
			t.Errorf("%s: the same program: %v", name, got)
		}
	}
}

func TestLoadedFilters(t *testing.T) {
	agenttest.NeedRoot(t)
	f := filters{kept: map[string]int{}}
	load := func(major int64) int {
		program, err := deviceFilter([]specs.LinuxDeviceCgroup{rule("c", major, 0, "r")})
		if err != nil {
			t.Fatal(err)
		}
		fd, done, err := f.load(program)
		if err != nil {
			t.Fatal(err)
		}
		done()
		return fd
	}
	first := load(100)
	if again := load(100); again != first {
		t.Errorf("loaded again: %d, %d", first, again)
	}
	for major := range int64(2 * maxFilters) {
		load(200 + major)
	}
	if len(f.kept) != maxFilters {
		t.Errorf("%d are kept", len(f.kept))
	}
	for _, fd := range f.kept {
		if err := unix.Close(fd); err != nil {
			t.Error(err)
		}
	}
}
