package protocol

// The names of the messages in the order of their opcodes. A name keeps its place for ever: new ones are added at the end.
var (
	commandNames = [...]string{
		0: "auth", 1: "run", 2: "exec", 3: "signal", 4: "stop",
		5: "prepare", 6: "remove", 7: "resize", 8: "close_stdin",
		9: "pids", 10: "stats", 11: "pause", 12: "resume", 13: "update",
		14: "network", 15: "mount", 16: "unmount", 17: "plug", 18: "clock", 19: "reseed",
		20: "cancel", 21: "ack", 22: "ping", 23: "data",
		24: "pod", 25: "resolver", 26: "ssh_agent", 27: "wait", 28: "unplug",
	}
	notificationNames = [...]string{
		0: "hello", 1: "auth_failed", 2: "ready", 3: "exit", 4: "stream_end",
		5: "event", 6: "progress", 7: "data_request", 8: "bye",
	}
)

// The opcodes of stream frames.
const (
	StreamStdin  Opcode = 0
	StreamStdout Opcode = 1
	StreamStderr Opcode = 2
	StreamLog    Opcode = 3
	streamCount         = 4
)

// opcodes is limpet's set of opcodes. A response has its command's.
var opcodes = opcodeLimits{
	Command:      len(commandNames),
	Response:     len(commandNames),
	Stream:       streamCount,
	Notification: len(notificationNames),
}

var (
	commandOpcodes      = opcodesByName(commandNames[:])
	notificationOpcodes = opcodesByName(notificationNames[:])
)

func opcodesByName(names []string) map[string]Opcode {
	byName := make(map[string]Opcode, len(names))
	for i, name := range names {
		byName[name] = Opcode(i)
	}
	return byName
}

// CommandName is the name of the command that has the opcode, for logs; "" if there is none.
func CommandName(op Opcode) string {
	if int(op) < len(commandNames) {
		return commandNames[op]
	}
	return ""
}
