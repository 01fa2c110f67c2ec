package seccomp

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// call is a system call as the kernel gives it to a filter.
type call struct {
	number, arch uint32
	arguments    [arguments]uint64
}

// ask runs a filter as the kernel does.
func ask(t *testing.T, program []unix.SockFilter, c call) uint32 {
	t.Helper()
	data := binary.LittleEndian.AppendUint32(nil, c.number)
	data = binary.LittleEndian.AppendUint32(data, c.arch)
	data = binary.LittleEndian.AppendUint64(data, 0)
	for _, argument := range c.arguments {
		data = binary.LittleEndian.AppendUint64(data, argument)
	}
	var loaded uint32
	for at := 0; ; at++ {
		i := program[at]
		var holds bool
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			loaded = binary.LittleEndian.Uint32(data[i.K:])
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			loaded &= i.K
			continue
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		case unix.BPF_JMP | unix.BPF_JA:
			at += int(i.K)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			holds = loaded == i.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			holds = loaded > i.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			holds = loaded >= i.K
		default:
			t.Fatalf("instruction %d: %#x", at, i.Code)
		}
		if holds {
			at += int(i.Jt)
		} else {
			at += int(i.Jf)
		}
	}
}

// fits tells whether an argument fits a condition.
func fits(c specs.LinuxSeccompArg, argument uint64) bool {
	switch c.Op {
	case specs.OpEqualTo:
		return argument == c.Value
	case specs.OpNotEqual:
		return argument != c.Value
	case specs.OpMaskedEqual:
		return argument&c.Value == c.ValueTwo&c.Value
	case specs.OpGreaterThan:
		return argument > c.Value
	case specs.OpGreaterEqual:
		return argument >= c.Value
	case specs.OpLessThan:
		return argument < c.Value
	case specs.OpLessEqual:
		return argument <= c.Value
	}
	panic(c.Op)
}

// TestConditions compares what a filter says of arguments around a condition's value with what it means.
func TestConditions(t *testing.T) {
	values := []uint64{0, 1, 5, 1<<32 - 1, 1 << 32, 1<<32 + 5, 7<<32 + 5, 1<<63 + 1, ^uint64(0)}
	for operator := range operators {
		for _, value := range values {
			for _, second := range []uint64{0, value, 5} {
				condition := specs.LinuxSeccompArg{Index: 3, Op: operator, Value: value, ValueTwo: second}
				filter, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
					{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{condition}},
				}})
				if err != nil {
					t.Fatal(err)
				}
				for _, argument := range append([]uint64{value - 1, value + 1, value ^ 1<<32, value ^ 1<<40}, values...) {
					got := ask(t, filter.Program, call{number: unix.SYS_READ, arch: auditArch, arguments: [arguments]uint64{3: argument}})
					if allowed := got == unix.SECCOMP_RET_ALLOW; allowed != fits(condition, argument) {
						t.Errorf("%#x %s %#x, %#x: allowed %v", argument, operator, value, second, allowed)
					}
				}
			}
		}
	}
}

// TestSearch compares what a filter says of every number with its list.
func TestSearch(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		spec := &specs.LinuxSeccomp{DefaultAction: specs.ActKillProcess}
		want := map[uint32]uint32{}
		for name, number := range numbers {
			errno := uint(random.IntN(3) + 1)
			switch random.IntN(3) {
			case 0:
				spec.Syscalls = append(spec.Syscalls, specs.LinuxSyscall{Names: []string{name, "none"}, Action: specs.ActAllow})
				want[number] = unix.SECCOMP_RET_ALLOW
			case 1:
				spec.Syscalls = append(spec.Syscalls, specs.LinuxSyscall{Names: []string{name}, Action: specs.ActErrno, ErrnoRet: &errno})
				want[number] = unix.SECCOMP_RET_ERRNO | uint32(errno)
			}
		}
		filter, err := Compile(spec)
		if err != nil {
			t.Fatal(err)
		}
		for number := range uint32(600) {
			wanted, listed := want[number]
			if !listed {
				wanted = unix.SECCOMP_RET_KILL_PROCESS
			}
			if got := ask(t, filter.Program, call{number: number, arch: auditArch}); got != wanted {
				t.Fatalf("%d: %#x, want %#x", number, got, wanted)
			}
		}
	}
}

// TestProfile asks a filter of the kind that containers have.
func TestProfile(t *testing.T) {
	missing := uint(unix.ENOSYS)
	filter, err := Compile(&specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"read", "write", "close", "no_such_call"}, Action: specs.ActAllow},
			{Names: []string{"clone"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: specs.OpMaskedEqual, Value: 0x7e020000}}},
			{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: &missing},
			{Names: []string{"socket"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: specs.OpNotEqual, Value: unix.AF_VSOCK}}},
			{Names: []string{"personality"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: specs.OpEqualTo, Value: 0}}},
			{Names: []string{"personality"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: specs.OpEqualTo, Value: 0x20008}}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if filter.Flags != unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW {
		t.Errorf("flags %#x", filter.Flags)
	}
	denied := uint32(unix.SECCOMP_RET_ERRNO | unix.EPERM)
	for name, test := range map[string]struct {
		call call
		want uint32
	}{
		"read":              {call{number: unix.SYS_READ}, unix.SECCOMP_RET_ALLOW},
		"the last":          {call{number: unix.SYS_FUTEX_WAKE}, denied},
		"mount":             {call{number: unix.SYS_MOUNT}, denied},
		"clone3":            {call{number: unix.SYS_CLONE3}, unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		"clone":             {call{number: unix.SYS_CLONE, arguments: [6]uint64{unix.CLONE_VM}}, unix.SECCOMP_RET_ALLOW},
		"clone into a user": {call{number: unix.SYS_CLONE, arguments: [6]uint64{unix.CLONE_NEWUSER}}, denied},
		"vsock":             {call{number: unix.SYS_SOCKET, arguments: [6]uint64{unix.AF_VSOCK}}, denied},
		"a socket":          {call{number: unix.SYS_SOCKET, arguments: [6]uint64{unix.AF_INET}}, unix.SECCOMP_RET_ALLOW},
		"personality":       {call{number: unix.SYS_PERSONALITY, arguments: [6]uint64{0x20008}}, unix.SECCOMP_RET_ALLOW},
		"odd personality":   {call{number: unix.SYS_PERSONALITY, arguments: [6]uint64{7}}, denied},
		"no such call":      {call{number: 1 << 20}, denied},
	} {
		test.call.arch = auditArch
		if got := ask(t, filter.Program, test.call); got != test.want {
			t.Errorf("%s: %#x, want %#x", name, got, test.want)
		}
	}
	if got := ask(t, filter.Program, call{number: unix.SYS_READ, arch: unix.AUDIT_ARCH_I386}); got != unix.SECCOMP_RET_KILL_THREAD {
		t.Errorf("a call of another architecture: %#x", got)
	}
}

func TestRules(t *testing.T) {
	one := specs.LinuxSeccompArg{Index: 0, Op: specs.OpEqualTo, Value: 1}
	two := specs.LinuxSeccompArg{Index: 0, Op: specs.OpEqualTo, Value: 2}
	other := specs.LinuxSeccompArg{Index: 1, Op: specs.OpEqualTo, Value: 2}
	listed := func(action specs.LinuxSeccompAction, conditions ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{"read"}, Action: action, Args: conditions}
	}
	for name, test := range map[string]struct {
		rules   []specs.LinuxSyscall
		allowed [][2]uint64
		denied  [][2]uint64
	}{
		"all conditions":         {[]specs.LinuxSyscall{listed(specs.ActAllow, one, other)}, [][2]uint64{{1, 2}}, [][2]uint64{{1, 1}, {2, 2}}},
		"either of one argument": {[]specs.LinuxSyscall{listed(specs.ActAllow, one, two)}, [][2]uint64{{1, 0}, {2, 0}}, [][2]uint64{{3, 0}}},
		"one of two rules": {
			[]specs.LinuxSyscall{listed(specs.ActAllow, one), listed(specs.ActAllow, other)}, [][2]uint64{{1, 0}, {9, 2}}, [][2]uint64{{9, 9}},
		},
		"the rest of all": {
			[]specs.LinuxSyscall{listed(specs.ActAllow), listed(specs.ActTrap, one)}, [][2]uint64{{2, 0}}, [][2]uint64{{1, 0}},
		},
		"as if nothing were said": {[]specs.LinuxSyscall{listed(specs.ActErrno, one)}, nil, [][2]uint64{{1, 0}, {2, 0}}},
	} {
		filter, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: test.rules, Flags: []specs.LinuxSeccompFlag{}})
		if err != nil || filter.Flags != 0 {
			t.Fatal(filter, err)
		}
		for i, asked := range slices.Concat(test.allowed, test.denied) {
			got := ask(t, filter.Program, call{number: unix.SYS_READ, arch: auditArch, arguments: [arguments]uint64{asked[0], asked[1]}})
			if allowed := got == unix.SECCOMP_RET_ALLOW; allowed != (i < len(test.allowed)) {
				t.Errorf("%s: %v: %#x", name, asked, got)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	errno := uint(1)
	trapping := func(condition specs.LinuxSeccompArg) specs.LinuxSeccomp {
		return specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{condition}}},
		}
	}
	for name, test := range map[string]struct {
		spec specs.LinuxSeccomp
		is   func(error) bool
	}{
		"no action":     {specs.LinuxSeccomp{}, errdefs.IsNotImplemented},
		"a supervisor":  {specs.LinuxSeccomp{DefaultAction: specs.ActNotify}, errdefs.IsNotImplemented},
		"a listener":    {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/x"}, errdefs.IsNotImplemented},
		"a flag":        {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"x"}}, errdefs.IsNotImplemented},
		"a vain error":  {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, DefaultErrnoRet: &errno}, errdefs.IsInvalidArgument},
		"a comparison":  {trapping(specs.LinuxSeccompArg{Op: "x"}), errdefs.IsInvalidArgument},
		"an argument 6": {trapping(specs.LinuxSeccompArg{Index: 6, Op: specs.OpEqualTo}), errdefs.IsInvalidArgument},
	} {
		if _, err := Compile(&test.spec); !test.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
