// Package integration tests limpet end to end: containers of a real containerd, in real virtual machines.
//
// Every test runs on the runtime that LIMPET_TEST_RUNTIME names, limpet if it is empty. Running the tests with
// io.containerd.runc.v2 shows whether a test asks for what containerd's own runtime does, too; the tests of what only a virtual
// machine has are left out then.
package integration

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/integration/harness"
)

// The containerd of this run of the tests, and the runtime under test.
var (
	daemon  *harness.Daemon
	runtime = harness.Limpet
)

func TestMain(m *testing.M) {
	harness.VsockProxyIfAsked()
	flag.Parse()
	if name := os.Getenv("LIMPET_TEST_RUNTIME"); name != "" {
		runtime = name
	}
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	build, err := harness.FindBuild(runtime)
	if err != nil {
		return 1, fmt.Errorf("something to test is missing:\n%w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if daemon, err = harness.Start(ctx, build); err != nil {
		return 1, err
	}
	defer func() {
		if code != 0 || err != nil {
			err = errors.Join(err, keepLog())
		}
		err = errors.Join(err, daemon.Stop())
	}()
	before, err := daemon.Inventory()
	if err != nil {
		return 1, err
	}
	go stopOnSignal()
	code = m.Run()
	return code, checkHost(before)
}

// stopOnSignal ends an interrupted run of the tests without leaving a containerd behind.
func stopOnSignal() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, unix.SIGTERM)
	received := <-signals
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	fmt.Fprintln(os.Stderr, "integration:", received, errors.Join(daemon.RemoveAll(ctx), daemon.Stop()))
	os.Exit(1)
}

// checkHost is the last test of the run: nothing of it is left on the host.
func checkHost(before harness.Inventory) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	if err := daemon.AwaitNothingSince(ctx, before); err != nil {
		return fmt.Errorf("after all tests: %w", err)
	}
	return daemon.RemoveCgroups()
}

// keepLog saves containerd's log, whose directory is about to be removed.
func keepLog() error {
	path := filepath.Join(os.TempDir(), "integration-containerd.log")
	fmt.Fprintln(os.Stderr, "integration: the log of containerd and the shims is kept in", path)
	return os.WriteFile(path, []byte(daemon.Log()), 0o644)
}
