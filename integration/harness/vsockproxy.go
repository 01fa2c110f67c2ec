package harness

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The vsock proxy stands in for limpet's vsock daemon: it runs the real one, and passes every connection between host and guest on by
// itself, so that it can cut them all at once.
const (
	proxyVariable = "LIMPET_TEST_VSOCK_DAEMON" // names the real daemon, and tells this program to be the proxy
	proxyControl  = "cut"                      // the socket in the daemon's directory: each byte asks for a cut, and is answered by one
	realDir       = "r"                        // where the real daemon has its sockets
)

// WriteVsockProxy writes a program that can be configured as limpet's vsock daemon, and runs the one given behind the proxy. It starts this
// program again, which must call VsockProxyIfAsked first.
func WriteVsockProxy(path, daemon string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	script := fmt.Sprintf("#!/bin/sh\n%s='%s' exec '%s' \"$@\"\n", proxyVariable, daemon, self)
	return os.WriteFile(path, []byte(script), 0o755)
}

// Cutter cuts what goes through the proxy of one sandbox.
type Cutter struct{ control net.Conn }

// NewCutter reaches the proxy of the sandbox with that state directory.
func NewCutter(stateDir string) (*Cutter, error) {
	control, err := net.Dial("unix", filepath.Join(stateDir, "vsock", proxyControl))
	return &Cutter{control}, err
}

// Cut cuts every connection between host and guest, and returns how many there were (at most 255).
func (c *Cutter) Cut() (connections int, err error) {
	var answer [1]byte
	if _, err := c.control.Write(answer[:]); err != nil {
		return 0, err
	}
	_, err = io.ReadFull(c.control, answer[:])
	return int(answer[0]), err
}

// Close ends the cutting.
func (c *Cutter) Close() error { return c.control.Close() }

// VsockProxyIfAsked makes this program the proxy if it was started as one. It does not return then.
func VsockProxyIfAsked() {
	daemon := os.Getenv(proxyVariable)
	if daemon == "" {
		return
	}
	fmt.Fprintln(os.Stderr, "vsock proxy:", runProxy(daemon, os.Args[1:]))
	os.Exit(1)
}

// proxy is the connections that pass through it.
type proxy struct {
	mu    sync.Mutex
	pairs map[*pair]bool
}

// pair is the two halves of a connection.
type pair struct{ limpet, daemon *net.UnixConn }

// cut ends the connection for both sides. The daemon panics if it cannot write what it holds, so that is read and dropped.
func (p *pair) cut() {
	_ = p.limpet.Close() // both may be closed already
	_ = p.daemon.CloseWrite()
	_ = p.daemon.SetReadDeadline(time.Now().Add(drainTimeout))
}

// drainTimeout is how long the daemon may take to hang up a connection that was cut.
const drainTimeout = 10 * time.Second

// runProxy is the daemon's life.
func runProxy(daemon string, args []string) error {
	// The real daemon ends with the thread that has started it, and so with this program, which is killed.
	runtime.LockOSThread()
	var dial, cid string
	for i, arg := range args {
		if path, ok := strings.CutPrefix(arg, "--uds-path="); ok {
			dial = path
			args[i] = "--uds-path=" + filepath.Join(filepath.Dir(path), realDir, filepath.Base(path))
		}
		if number, ok := strings.CutPrefix(arg, "--guest-cid="); ok {
			cid = number
		}
	}
	dir := filepath.Dir(dial)
	if err := os.Mkdir(filepath.Join(dir, realDir), 0o700); err != nil {
		return err
	}
	var number uint32
	if _, err := fmt.Sscan(cid, &number); err != nil {
		return err
	}
	const sessionPorts = 0x4c000000 // see docs/frames.md
	session := fmt.Sprintf("%s_%d", filepath.Base(dial), sessionPorts+number)
	p := &proxy{pairs: map[*pair]bool{}}
	for i, way := range [][2]string{
		{dial, filepath.Join(dir, realDir, filepath.Base(dial))},            // the host dials
		{filepath.Join(dir, realDir, session), filepath.Join(dir, session)}, // the guest dials
	} {
		listener, err := net.Listen("unix", way[0])
		if err != nil {
			return err
		}
		go p.accept(listener, func(from *net.UnixConn) { p.join(from, way[1], i == 0) })
	}
	control, err := net.Listen("unix", filepath.Join(dir, proxyControl))
	if err != nil {
		return err
	}
	go p.accept(control, p.obey)

	cmd := exec.Command(daemon, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return errors.Join(errors.New("the daemon has ended"), cmd.Run())
}

func (p *proxy) accept(listener net.Listener, serve func(*net.UnixConn)) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "vsock proxy:", err)
			return
		}
		go serve(conn.(*net.UnixConn))
	}
}

// join passes a connection on to a socket.
func (p *proxy) join(from *net.UnixConn, path string, toDaemon bool) {
	to, err := net.Dial("unix", path)
	if err != nil {
		_ = from.Close()
		return
	}
	both := &pair{limpet: to.(*net.UnixConn), daemon: from}
	if toDaemon {
		both.limpet, both.daemon = both.daemon, both.limpet
	}
	p.mu.Lock()
	p.pairs[both] = true
	p.mu.Unlock()
	both.pass()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pairs, both)
}

// pass passes bytes on until one of the two sides ends.
func (p *pair) pass() {
	defer p.daemon.Close()
	go func() {
		defer p.cut()
		_, _ = io.Copy(struct{ io.Writer }{p.daemon}, struct{ io.Reader }{p.limpet}) // whatever ends it
	}()
	_, _ = io.Copy(struct{ io.Writer }{p.limpet}, struct{ io.Reader }{p.daemon})
	p.cut()
	_, _ = io.Copy(io.Discard, struct{ io.Reader }{p.daemon})
}

// obey cuts each time that it is told to.
func (p *proxy) obey(control *net.UnixConn) {
	defer control.Close()
	order := make([]byte, 1)
	for {
		if _, err := io.ReadFull(control, order); err != nil {
			return
		}
		p.mu.Lock()
		order[0] = byte(min(len(p.pairs), 255))
		for both := range p.pairs {
			both.cut()
			delete(p.pairs, both)
		}
		p.mu.Unlock()
		if _, err := control.Write(order); err != nil {
			return
		}
	}
}
