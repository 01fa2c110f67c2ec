package runtime

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
)

// A stopped sandbox leaves its trace in one line of the log, as JSON.
const (
	stoppedMessage = "sandbox stopped"
	traceAttribute = "trace"
)

// logTrace leaves the trace to who looks for it after the sandbox's end.
func logTrace(log *slog.Logger, trace Trace) {
	text, err := json.Marshal(trace)
	if err != nil {
		log.Warn("the trace is missing", "error", err)
	}
	log.Info(stoppedMessage, traceAttribute, string(text))
}

// LoggedTraces reads the traces of stopped sandboxes from a log, such as containerd's, in the log's order. Lines of others are passed over,
// those that are cut short too.
func LoggedTraces(log io.Reader) ([]Trace, error) {
	traces := []Trace{}
	lines := bufio.NewReader(log)
	for {
		line, err := lines.ReadString('\n')
		if trace, ok := loggedTrace(line); ok {
			traces = append(traces, trace)
		}
		if errors.Is(err, io.EOF) {
			return traces, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the log: %w", err)
		}
	}
}

// loggedTrace reads what logTrace has written, as slog's text handler has it.
func loggedTrace(line string) (trace Trace, ok bool) {
	if !strings.Contains(line, strconv.Quote(stoppedMessage)) {
		return Trace{}, false
	}
	_, value, _ := strings.Cut(line, " "+traceAttribute+"=")
	quoted, err := strconv.QuotedPrefix(value)
	if err != nil {
		return Trace{}, false
	}
	text, err := strconv.Unquote(quoted)
	if err != nil {
		return Trace{}, false
	}
	return trace, json.Unmarshal([]byte(text), &trace) == nil
}
