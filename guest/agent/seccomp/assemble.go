package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// What the kernel gives a filter: struct seccomp_data, of a machine with the low half of a number first.
const (
	numberAt    = 0
	archAt      = 4
	argumentsAt = 16
	arguments   = 6
	highHalf    = 4
)

// load loads a word of what the kernel gives.
func load(at uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
}

func answer(value uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value}
}

// branch compares what was loaded with a value, and passes over so many instructions if the comparison holds, or if it does not.
func branch(code uint16, value uint32, holds, not uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | code, K: value, Jt: holds, Jf: not}
}

// assemble makes the program.
func assemble(usual uint32, calls map[uint32][]rule) []unix.SockFilter {
	program := []unix.SockFilter{
		load(archAt), branch(unix.BPF_JEQ, auditArch, 1, 0), answer(unix.SECCOMP_RET_KILL_THREAD), load(numberAt),
	}
	return append(program, search(spansOf(usual, calls))...)
}

// search finds the span that a number is in.
func search(spans []span) []unix.SockFilter {
	if len(spans) == 1 {
		return decide(spans[0])
	}
	middle := len(spans) / 2
	below, above := search(spans[:middle]), search(spans[middle:])
	// The jump over what is below may be longer than a branch's.
	program := []unix.SockFilter{
		branch(unix.BPF_JGE, spans[middle].first, 0, 1), {Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(below))},
	}
	return append(append(program, below...), above...)
}

// decide says the answer for the numbers of a span.
func decide(s span) []unix.SockFilter {
	if s.rules == nil {
		return []unix.SockFilter{answer(s.answer)}
	}
	var program []unix.SockFilter
	for _, r := range s.rules {
		part := []unix.SockFilter{answer(r.answer)}
		for i := len(r.conditions) - 1; i >= 0; i-- {
			part = append(check(r.conditions[i], uint8(len(part))), part...)
		}
		program = append(program, part...)
	}
	return program
}

// operators are the comparisons of a specification: how both halves of two numbers are compared.
var operators = map[specs.LinuxSeccompOperator]func(value uint64, mask uint64, past uint8) []unix.SockFilter{
	specs.OpEqualTo:      func(value, _ uint64, past uint8) []unix.SockFilter { return equal(value, ^uint64(0), past) },
	specs.OpMaskedEqual:  func(mask, value uint64, past uint8) []unix.SockFilter { return equal(value&mask, mask, past) },
	specs.OpNotEqual:     func(value, _ uint64, past uint8) []unix.SockFilter { return different(value, past) },
	specs.OpGreaterThan:  func(value, _ uint64, past uint8) []unix.SockFilter { return above(unix.BPF_JGT, value, past) },
	specs.OpGreaterEqual: func(value, _ uint64, past uint8) []unix.SockFilter { return above(unix.BPF_JGE, value, past) },
	specs.OpLessThan:     func(value, _ uint64, past uint8) []unix.SockFilter { return below(unix.BPF_JGE, value, past) },
	specs.OpLessEqual:    func(value, _ uint64, past uint8) []unix.SockFilter { return below(unix.BPF_JGT, value, past) },
}

// check goes on if an argument fits a condition, and else passes over what comes next: so many instructions.
func check(c specs.LinuxSeccompArg, next uint8) []unix.SockFilter {
	at := uint32(argumentsAt + 8*c.Index)
	part := operators[c.Op](c.Value, c.ValueTwo, next)
	for i := range part {
		if part[i].Code == unix.BPF_LD|unix.BPF_W|unix.BPF_ABS {
			part[i].K += at
		}
	}
	return part
}

func halves(value uint64) (high, low uint32) { return uint32(value >> 32), uint32(value) }

// equal, different, above and below check the argument at 0, and pass over what comes after them, if it does not fit.
func equal(value, mask uint64, past uint8) []unix.SockFilter {
	high, low := halves(value)
	maskHigh, maskLow := halves(mask)
	and := func(mask uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask}
	}
	return []unix.SockFilter{
		load(highHalf), and(maskHigh), branch(unix.BPF_JEQ, high, 0, past+3), load(0), and(maskLow), branch(unix.BPF_JEQ, low, 0, past),
	}
}

func different(value uint64, past uint8) []unix.SockFilter {
	high, low := halves(value)
	return []unix.SockFilter{load(highHalf), branch(unix.BPF_JEQ, high, 0, 2), load(0), branch(unix.BPF_JEQ, low, past, 0)}
}

func above(code uint16, value uint64, past uint8) []unix.SockFilter {
	high, low := halves(value)
	return []unix.SockFilter{
		load(highHalf), branch(unix.BPF_JGT, high, 3, 0), branch(unix.BPF_JEQ, high, 0, past+2), load(0), branch(code, low, 0, past),
	}
}

func below(code uint16, value uint64, past uint8) []unix.SockFilter {
	high, low := halves(value)
	return []unix.SockFilter{
		load(highHalf), branch(unix.BPF_JGT, high, past+3, 0), branch(unix.BPF_JEQ, high, 0, 2), load(0), branch(code, low, past, 0),
	}
}
