package logs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

// line is what a test looks at of a line.
type line struct {
	Level, Msg, Source string
	Lines              uint64
}

// records is a kernel's log that gives a record with each read.
type records struct {
	list   []string
	closed chan struct{}
}

func (r *records) Read(p []byte) (int, error) {
	if len(r.list) == 0 {
		<-r.closed
		return 0, io.EOF
	}
	defer func() { r.list = r.list[1:] }()
	return copy(p, r.list[0]), nil
}

func (r *records) Close() error { close(r.closed); return nil }

// follow serves the log to one reader.
func follow(t *testing.T, log *Log, kernel ...string) (*protocol.LogReader, net.Conn) {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		log.serve(theirs, func() (io.ReadCloser, error) { return &records{kernel, make(chan struct{})}, nil })
	}()
	t.Cleanup(func() { ours.Close(); <-done })
	if err := ours.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return protocol.NewLogReader(ours), ours
}

func next(t *testing.T, reader *protocol.LogReader) line {
	t.Helper()
	text, err := reader.Next()
	if err != nil {
		t.Fatal(err)
	}
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return l
}

func TestKeptAndComing(t *testing.T) {
	log := New()
	logger := slog.New(log.Handler())
	logger.Debug("before")
	reader, _ := follow(t, log)
	if got := next(t, reader); got != (line{"DEBUG", "before", "agent", 0}) {
		t.Errorf("kept: %+v", got)
	}
	logger.Warn("after")
	if got := next(t, reader); got != (line{"WARN", "after", "agent", 0}) {
		t.Errorf("coming: %+v", got)
	}
}

// TestSlowReader has a reader lose the oldest lines, whole ones, and be told how many.
func TestSlowReader(t *testing.T) {
	log := New()
	long := strings.Repeat("x", 1<<10)
	logger := slog.New(log.Handler())
	const count = 2 * maxKept >> 10
	reader, _ := follow(t, log)
	for i := range count {
		logger.Info(fmt.Sprint(i, long))
	}
	var lost uint64
	for got := uint64(0); got+lost < count; {
		l := next(t, reader)
		switch {
		case l.Msg == "lines lost":
			lost += l.Lines
		case !strings.HasPrefix(l.Msg, fmt.Sprint(got+lost, "x")):
			t.Fatalf("after %d lines, and %d lost: %.10q", got, lost, l.Msg)
		default:
			got++
		}
	}
	if lost == 0 {
		t.Errorf("no line of %d is lost, with %d bytes kept", count, maxKept)
	}
}

func TestLongLineIsLeftOut(t *testing.T) {
	log := New()
	logger := slog.New(log.Handler())
	logger.Info(strings.Repeat("x", protocol.MaxLogLine))
	logger.Info("short")
	reader, _ := follow(t, log)
	if got := next(t, reader); got.Msg != "short" {
		t.Errorf("told of %.20q", got.Msg)
	}
}

func TestKernelLog(t *testing.T) {
	reader, _ := follow(t, New(),
		"6,0,5140900,-;random: crng init done\n SUBSYSTEM=x\n", "nonsense", "3,4,1,-;bad thing", "12,5,1,-;warning", "7,6,1,-;detail")
	for _, want := range []line{
		{"INFO", "random: crng init done", "kernel", 0}, {"WARN", "lines lost", "kernel", 3}, {"ERROR", "bad thing", "kernel", 0},
		{"WARN", "warning", "kernel", 0}, {"DEBUG", "detail", "kernel", 0},
	} {
		if got := next(t, reader); got != want {
			t.Errorf("told of %+v, want %+v", got, want)
		}
	}
}

func TestNoKernelLog(t *testing.T) {
	ours, theirs := net.Pipe()
	go New().serve(theirs, func() (io.ReadCloser, error) { return nil, errors.New("no such device") })
	defer ours.Close()
	if got := next(t, protocol.NewLogReader(ours)); got != (line{"ERROR", "no such device", "kernel", 0}) {
		t.Errorf("told of %+v", got)
	}
}

func TestReadersAreBounded(t *testing.T) {
	listener, err := net.Listen("unix", t.TempDir()+"/log")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- New().Serve(listener, func() (io.ReadCloser, error) { return &records{nil, make(chan struct{})}, nil })
	}()
	for i := range maxReaders + 1 {
		conn, err := net.Dial("unix", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i == maxReaders {
			if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("one too many: %v", err)
			}
		}
	}
	listener.Close()
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func FuzzKernelRecord(f *testing.F) {
	f.Add([]byte("6,339,5140900,-;NET: Registered\n SUBSYSTEM=net\n"))
	f.Add([]byte(",,;"))
	f.Fuzz(func(t *testing.T, record []byte) {
		if line, ok := parseRecord(record); ok && (line.since < 0 || strings.Contains(line.text, "\n")) {
			t.Errorf("%q: %+v", record, line)
		}
	})
}
