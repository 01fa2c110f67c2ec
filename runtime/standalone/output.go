package standalone

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

const (
	outputFile = "output.log"
	// olderSuffix follows the name of the file that was full before this one.
	olderSuffix = ".1"
	// maxOutputFile is how much is kept in a file, in bytes: the last one to two times as much of the output can be read.
	maxOutputFile = 16 << 20
	// maxOutputLine bounds the text of a line, in bytes. A longer one is continued in the next.
	maxOutputLine = 16 << 10
)

// Lines of the file are as CRI has them: time, stream, "F" or, if the next one of the stream continues it, "P", and the text; separated by
// one space.
const (
	tagFull    = "F"
	tagPartial = "P"
)

// outputLog keeps what a command in the background writes, in a file that begins anew when it is full.
type outputLog struct {
	path  string
	limit int64

	mu      sync.Mutex
	file    *os.File
	size    int64
	writers int // that are not closed
}

// openOutputLog makes the file. It is closed with the last of its streams.
func openOutputLog(path string, limit int64) (*outputLog, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("keep the output: %w", err)
	}
	return &outputLog{path: path, limit: limit, file: file}, nil
}

// stream is a writer for "stdout" or "stderr".
func (l *outputLog) stream(name string) io.WriteCloser {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writers++
	return &outputStream{log: l, name: name}
}

// outputStream is one of an outputLog's.
type outputStream struct {
	log  *outputLog
	name string
	once sync.Once
}

// Write implements io.Writer.
func (s *outputStream) Write(data []byte) (int, error) {
	lines := formatOutput(time.Now(), s.name, data)
	if err := s.log.append(lines); err != nil {
		return 0, err
	}
	return len(data), nil
}

// Close implements io.Closer.
func (s *outputStream) Close() (err error) {
	s.once.Do(func() {
		s.log.mu.Lock()
		defer s.log.mu.Unlock()
		if s.log.writers--; s.log.writers == 0 {
			err = s.log.file.Close()
		}
	})
	return err
}

func (l *outputLog) append(lines []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(lines)) > l.limit {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(lines)
	l.size += int64(n)
	return err
}

// rotate begins a new file. There is one at any time: a reader that finds none takes the run for removed. The caller holds the lock.
func (l *outputLog) rotate() error {
	next := l.path + ".new"
	file, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	older := l.path + olderSuffix
	if err := os.Remove(older); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, file.Close())
	}
	if err := os.Link(l.path, older); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := os.Rename(next, l.path); err != nil {
		return errors.Join(err, file.Close())
	}
	l.file.Close()
	l.file, l.size = file, 0
	return nil
}

// formatOutput makes lines of what was written at one time.
func formatOutput(at time.Time, stream string, data []byte) []byte {
	var lines bytes.Buffer
	for len(data) > 0 {
		text, tag := data[:min(len(data), maxOutputLine)], tagPartial
		rest := data[len(text):]
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			text, tag, rest = data[:i], tagFull, data[i+1:]
		}
		data = rest
		fmt.Fprintf(&lines, "%s %s %s %s\n", at.UTC().Format(time.RFC3339Nano), stream, tag, text)
	}
	return lines.Bytes()
}

// parseOutput reads a line of the file: what it is of, and its text as it was written. ok tells whether it is one.
func parseOutput(line string) (stream, text string, ok bool) {
	fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
	if len(fields) != 4 || fields[2] != tagFull && fields[2] != tagPartial {
		return "", "", false
	}
	text = fields[3]
	if fields[2] == tagFull {
		text += "\n"
	}
	return fields[1], text, true
}

// CopyOutput writes what is kept of a run's output; with follow also what comes, until the run has ended or is removed. ErrNotFound: there
// is no such run; ErrFailedPrecondition: it is in the foreground, its output is not kept.
func CopyOutput(ctx context.Context, stateDir, name string, follow bool, stdout, stderr io.Writer) error {
	record, err := Find(stateDir, name)
	if err != nil {
		return err
	}
	if !record.Detached {
		return fmt.Errorf("run %s is in the foreground: its output is where it was started: %w", name, errdefs.ErrFailedPrecondition)
	}
	reader := outputReader{dir: placePath(stateDir, name), stdout: stdout, stderr: stderr}
	defer reader.close()
	if err := reader.copyFile(outputFile + olderSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !follow {
		return ignoreNotExist(reader.more())
	}
	return ignoreNotExist(reader.follow(ctx))
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) { // it is being removed
		return nil
	}
	return err
}

// outputReader reads the files of an outputLog while they are written.
type outputReader struct {
	dir            string
	stdout, stderr io.Writer
	file           *os.File // the one being read
	lines          *bufio.Reader
	rest           string // of a line that is being written
}

func (r *outputReader) close() {
	if r.file != nil {
		r.file.Close()
	}
}

func (r *outputReader) copyFile(name string) error {
	file, err := os.Open(filepath.Join(r.dir, name))
	if err != nil {
		return err
	}
	r.close()
	r.file, r.lines, r.rest = file, bufio.NewReader(file), ""
	return r.readOn()
}

// readOn writes what has come to the file since it was last read.
func (r *outputReader) readOn() error {
	for {
		part, err := r.lines.ReadString('\n')
		r.rest += part
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		stream, text, ok := parseOutput(r.rest)
		r.rest = ""
		if !ok {
			continue
		}
		to := r.stdout
		if stream == "stderr" {
			to = r.stderr
		}
		if _, err := io.WriteString(to, text); err != nil {
			return err
		}
	}
}

// more writes what there is more of the output: in the file being read, and in the one that has taken its place.
func (r *outputReader) more() error {
	var current unix.Stat_t
	if err := unix.Stat(filepath.Join(r.dir, outputFile), &current); err != nil {
		return err
	}
	if r.file != nil {
		if err := r.readOn(); err != nil {
			return err
		}
		var mine unix.Stat_t
		if err := unix.Fstat(int(r.file.Fd()), &mine); err == nil && mine.Ino == current.Ino {
			return nil
		}
	}
	return r.copyFile(outputFile)
}

// follow writes the output as it comes, until the run has ended.
func (r *outputReader) follow(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("follow the output: %w", err)
	}
	defer watcher.Close()
	if err := watcher.Add(r.dir); err != nil {
		return fmt.Errorf("follow the output: %w", err)
	}
	for {
		record, err := readRecord(r.dir) // before the output, of which nothing comes after the end
		if err != nil {
			return err
		}
		if err := r.more(); err != nil {
			return err
		}
		if record.Exit != nil {
			return nil
		}
		select {
		case _, ok := <-watcher.Events:
			if !ok {
				return nil
			}
		case err := <-watcher.Errors:
			return fmt.Errorf("follow the output: %w", err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
