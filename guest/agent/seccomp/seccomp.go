// Package seccomp turns the filter of a container's specification into a program for the kernel, which says of each system call whether it
// is made. The kernel asks the program about every number once, when it gets it, and then at each call whose arguments the answer depends
// on: so the program looks for a number by halving.
package seccomp

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

//go:generate go run mknames.go amd64

// Filter is a program and the flags that it is given to the kernel with: seccomp(2).
type Filter struct {
	Program []unix.SockFilter
	Flags   uintptr
}

// Compile makes a specification's filter. What it does not do, such as to ask a supervisor, is an ErrNotImplemented; what makes no sense is
// an ErrInvalidArgument. Only programs of this machine's architecture are let run, as the kernel has no others.
// Names that it does not know are passed over, as with other OCI runtimes.
func Compile(spec *specs.LinuxSeccomp) (*Filter, error) {
	if spec.ListenerPath != "" {
		return nil, fmt.Errorf("seccomp: a listener: %w", errdefs.ErrNotImplemented)
	}
	flags, err := flagsOf(spec.Flags)
	if err != nil {
		return nil, err
	}
	usual, err := answerOf(spec.DefaultAction, spec.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	calls := map[uint32][]rule{}
	for _, given := range spec.Syscalls {
		rules, err := rulesOf(given)
		if err != nil {
			return nil, err
		}
		if rules[0].answer == usual {
			continue
		}
		for _, name := range given.Names {
			if number, known := numbers[name]; known {
				calls[number] = append(calls[number], rules...)
			}
		}
	}
	program := assemble(usual, calls)
	if len(program) > maxInstructions {
		return nil, fmt.Errorf("seccomp: the filter takes %d instructions, the kernel takes %d: %w", len(program), maxInstructions,
			errdefs.ErrInvalidArgument)
	}
	return &Filter{Program: program, Flags: flags}, nil
}

// maxInstructions is the kernel's bound (BPF_MAXINSNS).
const maxInstructions = 4096

// flagNames are the flags of a specification. One thread is as good as all: the process has no other.
var flagNames = map[specs.LinuxSeccompFlag]uintptr{
	specs.LinuxSeccompFlagLog: unix.SECCOMP_FILTER_FLAG_LOG, specs.LinuxSeccompFlagSpecAllow: unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
	"SECCOMP_FILTER_FLAG_TSYNC": 0,
}

// flagsOf are the flags that a specification names. Without a list there is one all the same, as with other OCI runtimes.
func flagsOf(names []specs.LinuxSeccompFlag) (flags uintptr, err error) {
	if names == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	for _, name := range names {
		flag, known := flagNames[name]
		if !known {
			return 0, fmt.Errorf("seccomp: flag %q: %w", name, errdefs.ErrNotImplemented)
		}
		flags |= flag
	}
	return flags, nil
}

// rule is an answer to a system call whose arguments fit all conditions.
type rule struct {
	conditions []specs.LinuxSeccompArg
	answer     uint32
}

// rulesOf are the rules for each system call that is named: one, or if an argument has more than one condition, one for each.
func rulesOf(given specs.LinuxSyscall) ([]rule, error) {
	answer, err := answerOf(given.Action, given.ErrnoRet)
	if err != nil {
		return nil, err
	}
	var seen [arguments]bool
	alternatives := false
	for _, condition := range given.Args {
		if _, known := operators[condition.Op]; !known || condition.Index >= arguments {
			return nil, fmt.Errorf("seccomp: argument %d %q of %q: %w", condition.Index, condition.Op, given.Names, errdefs.ErrInvalidArgument)
		}
		alternatives = alternatives || seen[condition.Index]
		seen[condition.Index] = true
	}
	if !alternatives {
		return []rule{{given.Args, answer}}, nil
	}
	var rules []rule
	for i := range given.Args {
		rules = append(rules, rule{given.Args[i : i+1], answer})
	}
	return rules, nil
}

// answers are what a filter can say, by the names of a specification. See seccomp(2).
var answers = map[specs.LinuxSeccompAction]uint32{
	specs.ActKill: unix.SECCOMP_RET_KILL_THREAD, specs.ActKillThread: unix.SECCOMP_RET_KILL_THREAD,
	specs.ActKillProcess: unix.SECCOMP_RET_KILL_PROCESS, specs.ActTrap: unix.SECCOMP_RET_TRAP, specs.ActErrno: unix.SECCOMP_RET_ERRNO,
	specs.ActTrace: unix.SECCOMP_RET_TRACE, specs.ActAllow: unix.SECCOMP_RET_ALLOW, specs.ActLog: unix.SECCOMP_RET_LOG,
}

// answerOf is an action as a filter says it, with its error, EPERM if none is given.
func answerOf(action specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	answer, known := answers[action]
	if !known {
		return 0, fmt.Errorf("seccomp: action %q: %w", action, errdefs.ErrNotImplemented)
	}
	if action != specs.ActErrno && action != specs.ActTrace {
		if errno != nil {
			return 0, fmt.Errorf("seccomp: action %q has no error: %w", action, errdefs.ErrInvalidArgument)
		}
		return answer, nil
	}
	number := uint(unix.EPERM)
	if errno != nil {
		number = *errno
	}
	return answer | uint32(number&math.MaxUint16), nil
}

// span is the numbers from one on, up to the next span's, which have the same answer: a plain one, or one that depends on rules.
type span struct {
	first  uint32
	answer uint32
	rules  []rule
}

// spansOf are all numbers.
func spansOf(usual uint32, calls map[uint32][]rule) []span {
	spans := []span{{answer: usual}}
	add := func(s span) {
		last := &spans[len(spans)-1]
		switch {
		case last.first == s.first:
			*last = s
		case last.rules != nil || s.rules != nil || last.answer != s.answer:
			spans = append(spans, s)
		}
	}
	var called []uint32
	for number := range calls {
		called = append(called, number)
	}
	slices.Sort(called)
	for i, number := range called {
		rules := calls[number]
		// What depends on nothing comes last: it answers what the others do not.
		slices.SortStableFunc(rules, func(a, b rule) int { return cmp.Compare(min(len(b.conditions), 1), min(len(a.conditions), 1)) })
		if len(rules[0].conditions) == 0 {
			add(span{first: number, answer: rules[0].answer})
		} else {
			add(span{first: number, rules: append(rules, rule{answer: usual})})
		}
		if next := number + 1; i+1 == len(called) || called[i+1] != next {
			add(span{first: next, answer: usual})
		}
	}
	return spans
}
