package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/pool"
)

// spare is the verb of a process that waits to become a sandbox's server, with a machine that waits, too. See package pool.
func spare(sandboxes Runtime) error {
	target := newLogTarget(slog.New(runtime.LogTraces(slog.NewTextHandler(os.Stderr, nil))).Handler())
	logger := slog.New(target.handler())
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ends, err := prepareServer(ctx, logger)
	if err != nil {
		return err
	}
	if err := pool.LowerPriority(); err != nil {
		return err
	}
	service, gone := pool.Serve()
	w := &waiting{sandboxes: sandboxes, logger: logger}
	// Until it is taken, what ends a server ends it, and the end of who made it.
	waitCtx, stopWaiting := context.WithCancelCause(ctx)
	defer stopWaiting(nil)
	taken := make(chan struct{})
	go func() {
		select {
		case end := <-ends:
			stopWaiting(fmt.Errorf("%w: signal: %s", errDismissed, end))
		case <-gone:
			stopWaiting(fmt.Errorf("%w: the pool's service has ended", errDismissed))
		case <-taken:
		}
	}()
	request, socket, err := w.wait(waitCtx, service, stopWaiting)
	close(taken)
	if cause := context.Cause(waitCtx); err != nil && errors.Is(cause, errDismissed) {
		logger.Info("spare ended", "reason", cause)
		return nil
	}
	if err != nil {
		return err
	}
	listener, err := listenerOf(socket)
	if err != nil {
		return err
	}
	defer listener.Close()
	c, err := w.command(request)
	if err != nil {
		return err
	}
	target.set(newLogger(c).Handler(), c.id)
	logger.Info("server taken from the pool", "pid", os.Getpid())
	c.stages.add(verbSpare)
	serving := c.newService(sandboxes, logger)
	serving.spare = w.machine
	return serveUntilGone(serving, listener, ends)
}

// errDismissed is why a spare ends that is not needed any more.
var errDismissed = errors.New("it is not needed any more")

// waiting is a spare until it is taken.
type waiting struct {
	sandboxes Runtime
	logger    *slog.Logger
	machine   Spare
}

// wait makes the machine and waits until this process is taken. On error nothing is left. lost is called when the machine ends.
func (w *waiting) wait(ctx context.Context, service *pool.Service, lost func(error)) (_ pool.Request, _ *os.File, err error) {
	configuration, err := config.Load("")
	if err != nil {
		return pool.Request{}, nil, err
	}
	digest, err := pool.Digest(configuration)
	if err != nil {
		return pool.Request{}, nil, err
	}
	if w.machine, err = w.sandboxes.NewSpare(ctx, configuration, w.logger); err != nil {
		return pool.Request{}, nil, err
	}
	defer func() {
		if err != nil {
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
			defer cancel()
			err = errors.Join(err, w.machine.Stop(stop))
		}
	}()
	go func() {
		<-w.machine.Lost()
		lost(errors.New("the machine has ended"))
	}()
	if err := pool.RestorePriority(w.machine.Processes()); err != nil {
		return pool.Request{}, nil, err
	}
	door, err := pool.Spare{
		StateDir: configuration.StateDir, Config: digest, Fresh: currentDigest, Logger: w.logger,
	}.Open()
	if err != nil {
		return pool.Request{}, nil, err
	}
	defer func() { err = errors.Join(err, door.Close()) }()
	debug.FreeOSMemory() // there may be many, for long
	if err := service.Ready(); err != nil {
		return pool.Request{}, nil, err
	}
	return door.Await(ctx, func(request pool.Request, asker int) error {
		if err := pool.Assume(request, asker, w.machine.Processes()); err != nil {
			return err
		}
		return service.Leave()
	})
}

// currentDigest is that of the configuration as it is now.
func currentDigest() (string, error) {
	configuration, err := config.Load("")
	if err != nil {
		return "", err
	}
	return pool.Digest(configuration)
}

// command is what the server would have been started with.
func (w *waiting) command(request pool.Request) (command, error) {
	c := command{
		verb: verbServe, namespace: request.Namespace, id: request.ID, bundle: request.Bundle, address: request.Address, socket: request.Socket,
		ttrpcAddress: os.Getenv("TTRPC_ADDRESS"), debug: request.Debug,
	}
	if err := c.stages.parse(string(request.Stages)); err != nil {
		return c, fmt.Errorf("the stages of the request: %w", err)
	}
	return c, nil
}

// fromPool has a spare of the pool serve the socket, if there is one that can. Why there is none does not matter here: the spares' log says so.
func (c command) fromPool(path string, options RuntimeOptions, socket *os.File) (pid int, ok bool) {
	if options.ShimCgroup != "" {
		return 0, false
	}
	configuration, err := loadConfig(options)
	if err != nil {
		return 0, false // which the sandbox's start says
	}
	if err := unix.Access(pool.Dir(configuration.StateDir), unix.F_OK); err != nil {
		return 0, false
	}
	digest, err := pool.Digest(configuration)
	if err != nil {
		return 0, false
	}
	stages, err := json.Marshal(c.stages)
	if err != nil {
		return 0, false
	}
	pid, err = pool.Ask(configuration.StateDir, pool.Request{
		Namespace: c.namespace, ID: c.id, Bundle: c.bundle, Address: c.address, Socket: path, Debug: c.debug,
		Stages: stages, Environment: os.Environ(), Config: digest,
	}, socket)
	return pid, err == nil
}
