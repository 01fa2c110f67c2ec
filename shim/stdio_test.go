package shim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

var testTarget = target{"ns", "c1"}

func makeFIFO(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, names stdio) *streams {
	t.Helper()
	streams, err := openStreams(names, testTarget)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(streams.close)
	return streams
}

func write(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
}

func TestNoStreams(t *testing.T) {
	streams := open(t, stdio{})
	if streams.io.Stdin != nil || streams.io.Stdout != nil || streams.io.Stderr != nil {
		t.Errorf("not null: %+v", streams.io)
	}
	streams.closeInput()
}

func TestOutputSurvivesItsReader(t *testing.T) {
	path := makeFIFO(t)
	streams := open(t, stdio{Stdout: path})
	write(t, streams.io.Stdout, "before\n") // nobody reads yet
	first, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(first).ReadString('\n'); err != nil || line != "before\n" {
		t.Fatalf("%q %v", line, err)
	}
	first.Close()
	write(t, streams.io.Stdout, "after") // nobody reads any more
	second, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	streams.io.Stdout.Close()
	if rest, err := io.ReadAll(second); err != nil || string(rest) != "after" {
		t.Errorf("%q %v", rest, err)
	}
}

func TestStdoutAndStderrOnOneFIFO(t *testing.T) {
	path := makeFIFO(t)
	streams := open(t, stdio{Stdout: path, Stderr: "fifo://" + path})
	reader, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	write(t, streams.io.Stdout, "out ")
	streams.io.Stdout.Close()
	write(t, streams.io.Stderr, "err")
	streams.io.Stderr.Close()
	if all, err := io.ReadAll(reader); err != nil || string(all) != "out err" {
		t.Errorf("%q %v", all, err)
	}
}

func TestTerminalHasNoStderr(t *testing.T) {
	streams := open(t, stdio{Stdout: makeFIFO(t), Stderr: "/nowhere/fifo", Terminal: true})
	if streams.io.Stderr != nil || !streams.io.Terminal {
		t.Errorf("%+v", streams.io)
	}
}

func TestUnreadOutputCanBeClosed(t *testing.T) {
	streams := open(t, stdio{Stdout: makeFIFO(t)})
	written := make(chan error)
	go func() {
		_, err := io.Copy(streams.io.Stdout, neverEnding{})
		written <- err
	}()
	streams.close()
	if err := <-written; !errors.Is(err, os.ErrClosed) {
		t.Errorf("write: %v", err)
	}
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

func TestInputEndsWithCloseIO(t *testing.T) {
	path := makeFIFO(t)
	streams := open(t, stdio{Stdin: path})
	for _, text := range []string{"one ", "two"} { // the client may come and go
		client, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		write(t, client, text)
		client.Close()
	}
	streams.closeInput()
	streams.closeInput()
	if all, err := io.ReadAll(streams.io.Stdin); err != nil || string(all) != "one two" {
		t.Errorf("%q %v", all, err)
	}
}

func TestInputCanBeClosedWhileRead(t *testing.T) {
	streams := open(t, stdio{Stdin: makeFIFO(t)})
	read := make(chan error)
	go func() {
		_, err := streams.io.Stdin.Read(make([]byte, 1))
		read <- err
	}()
	streams.io.Stdin.Close()
	if err := <-read; !errors.Is(err, os.ErrClosed) {
		t.Errorf("read: %v", err)
	}
}

func TestStreamsRefused(t *testing.T) {
	fifo := makeFIFO(t)
	for name, test := range map[string]struct {
		names stdio
		is    func(error) bool
		says  string
	}{
		"missing stdin":      {stdio{Stdin: "/nowhere/in"}, errdefs.IsNotFound, `"/nowhere/in"`},
		"missing stderr":     {stdio{Stdout: fifo, Stderr: "/nowhere/err"}, errdefs.IsNotFound, `"/nowhere/err"`},
		"unknown scheme":     {stdio{Stdout: "ttrpc+unix:///x?streaming_id=1"}, errdefs.IsNotImplemented, "ttrpc+unix"},
		"relative":           {stdio{Stdout: "file:x"}, errdefs.IsInvalidArgument, "file:x"},
		"stderr to a binary": {stdio{Stdout: fifo, Stderr: "binary:///x"}, errdefs.IsInvalidArgument, "binary:///x"},
		"no such binary":     {stdio{Stdout: "binary:///nowhere/x"}, errdefs.IsInvalidArgument, "/nowhere/x"},
		"stdin from a file":  {stdio{Stdin: "file:///x"}, errdefs.IsInvalidArgument, "file:///x"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := openStreams(test.names, testTarget)
			if err == nil || !test.is(err) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestFileOutput(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b.log")
	for range 2 {
		streams := open(t, stdio{Stdout: "file://" + path, Stderr: "file://" + path})
		write(t, streams.io.Stdout, "o")
		write(t, streams.io.Stderr, "e")
		streams.close()
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "oeoe" {
		t.Errorf("%q %v", data, err)
	}
}

func TestLoggingBinary(t *testing.T) {
	directory := t.TempDir()
	script := filepath.Join(directory, "logger")
	text := "#!/bin/sh\necho \"$CONTAINER_NAMESPACE/$CONTAINER_ID $*\" >$2\n" +
		"/bin/echo -n . >&5\nexec 5>&-\n/bin/cat <&3 >>$2\n/bin/cat <&4 >>$2\n/bin/echo -n end >>$2\n"
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, scheme := range []string{"binary", "binary-v2"} {
		log := makeFIFO(t)
		reader, err := os.OpenFile(log, os.O_RDWR|unix.O_NONBLOCK, 0) // for writing too: the logger comes and goes
		if err != nil {
			t.Fatal(err)
		}
		name := scheme + "://" + script + "?file=" + log
		streams := open(t, stdio{Stdout: name, Stderr: name})
		write(t, streams.io.Stdout, "out\n")
		write(t, streams.io.Stderr, "err\n")
		streams.close()
		got := readUntil(t, reader, "end")
		if want := "ns/c1 file " + log + "\nout\nerr\nend"; got != want {
			t.Errorf("%s: %q, want %q", scheme, got, want)
		}
		reader.Close()
	}
}

func readUntil(t *testing.T, file *os.File, end string) string {
	t.Helper()
	var all strings.Builder
	buffer := make([]byte, 1024)
	file.SetReadDeadline(time.Now().Add(10 * time.Second))
	for !strings.HasSuffix(all.String(), end) {
		n, err := file.Read(buffer)
		all.Write(buffer[:n])
		if err != nil {
			t.Fatalf("after %q: %v", all.String(), err)
		}
	}
	return all.String()
}

func TestLoggingBinaryThatFails(t *testing.T) {
	_, err := openStreams(stdio{Stdout: "binary-v2:///bin/false"}, testTarget)
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v", err)
	}
}

// program writes a shell script and returns its path.
func program(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// A logging binary that says nothing, and does not go either, is killed.
func TestLoggingBinaryNeverReady(t *testing.T) {
	pid := makeFIFO(t)
	reader, err := os.OpenFile(pid, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	path := program(t, "echo $$ >"+pid+"; exec /bin/sleep 1000")
	_, err = startLogger(location{scheme: "binary", path: path}, testTarget, loggerTimeouts{ready: time.Second})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "within 1s") || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	var process int
	if _, err := fmt.Fscan(reader, &process); err != nil {
		t.Fatal(err)
	}
	if handle, err := unix.PidfdOpen(process, 0); err == nil { // else it is gone already
		defer unix.Close(handle)
		awaitEnd(t, handle)
	}
}

// One that does not end with its streams is asked to, and then killed; finish waits for that.
func TestLoggingBinaryThatStays(t *testing.T) {
	for name, trap := range map[string]string{"ends when asked": "", "has to be killed": "trap '' TERM; "} {
		t.Run(name, func(t *testing.T) {
			path := program(t, trap+"echo -n . >&5; exec 5>&-; while :; do /bin/sleep 0.01; done")
			started, err := startLogger(location{scheme: "binary-v2", path: path}, testTarget,
				loggerTimeouts{ready: 10 * time.Second, exit: 50 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			streams := &streams{outputs: []*output{started.stdout, started.stderr}, logger: started}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			streams.finish(ctx)
			if ctx.Err() != nil {
				t.Error("it lives")
			}
		})
	}
}
