package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/hypervisor/internal/child"
)

const (
	// quitGrace is how long QEMU may take to end by itself. It takes milliseconds.
	quitGrace = 2 * time.Second
	// undoTimeout bounds the undoing of a step whose own context is over.
	undoTimeout = 5 * time.Second
	// consoleLines of the guest's console go into an error.
	consoleLines = 12
)

// state is a machine's, until it stops.
type state string

const (
	paused  state = "paused"
	running state = "running"
)

// machine implements hypervisor.Machine.
//
// Whoever changes it holds its turn: a channel and not a lock, because QEMU's answers are awaited meanwhile and the waiting for the
// turn ends with the waiter's context or with the machine.
type machine struct {
	plan     *plan
	logger   *slog.Logger
	qemu     *child.Child
	monitor  *monitor
	console  *child.Tail
	memory   *os.File
	shutdown *expectation // QEMU's word why it ends
	halted   *expectation // QEMU's word that the machine has stopped

	turn  chan struct{}
	state state // by the turn

	stop     sync.Once
	stopping atomic.Bool
	stopped  chan struct{} // closed when nothing is left of the machine
	ended    chan struct{} // closed when QEMU has ended
	verdict  error         // what Wait returns; valid after ended

	mu      sync.Mutex
	plugged map[string]*pluggedDevice // by identifier
	servers map[string]*shareServer   // of shares that are not plugged, by identifier
	// nextTarget is where the search for a free target of the disks' controller begins.
	nextTarget int
	broken     error // why the machine had to be ended; nil: it was not
}

func newMachine(
	p *plan, qemu *child.Child, monitor *monitor, console *child.Tail, memory *os.File, servers map[string]*shareServer,
) *machine {
	m := &machine{
		plan:     p,
		logger:   p.logger,
		qemu:     qemu,
		monitor:  monitor,
		console:  console,
		memory:   memory,
		shutdown: monitor.expect(func(e event) bool { return e.Name == "SHUTDOWN" }),
		halted:   monitor.expect(func(e event) bool { return e.Name == "STOP" }),
		turn:     make(chan struct{}, 1),
		state:    paused,
		stopped:  make(chan struct{}),
		ended:    make(chan struct{}),
		plugged:  map[string]*pluggedDevice{},
		servers:  servers,
	}
	go m.watch()
	m.logger.Debug("machine started", "pid", qemu.Process().PID, "accelerator", p.accelerator)
	return m
}

// watch waits for QEMU's end and judges it.
func (m *machine) watch() {
	<-m.qemu.Done()
	<-m.monitor.done // QEMU's last events have been read
	shutdown, _ := m.shutdown.seen()
	m.mu.Lock()
	broken := m.broken
	m.mu.Unlock()
	m.verdict = m.judge(shutdown.Reason, broken)
	m.logger.Debug("machine ended", "pid", m.qemu.Process().PID, "reason", shutdown.Reason, "error", m.verdict)
	close(m.ended)
}

// judge turns the way QEMU ended into Wait's result. reason is from QMP's SHUTDOWN event, "" if there was none.
func (m *machine) judge(reason string, broken error) error {
	var how error
	switch {
	case m.stopping.Load():
		return nil
	case broken != nil:
		how = fmt.Errorf("the machine is lost: %w", broken)
	case m.qemu.Err() != nil:
		how = m.qemu.Explain(errors.New("the machine is lost"))
	case reason == "guest-shutdown":
		return nil
	case reason == "guest-reset":
		how = errors.New("the guest reset itself, as a kernel that panics does")
	default:
		how = m.qemu.Explain(fmt.Errorf("QEMU was told to end (%s)", reason))
	}
	if last := excerpt(m.console.String()); last != "" {
		how = fmt.Errorf("%w; the guest's console says:\n%s", how, last)
	}
	return fmt.Errorf("machine %s: %w: %w", m.plan.config.Name, errdefs.ErrUnavailable, how)
}

// excerpt is what of a console goes into an error: a kernel's panic from its first line on, else the last lines.
func excerpt(console string) string {
	start := strings.LastIndex(console, "Kernel panic")
	lines := strings.Split(strings.TrimSpace(console[max(0, start):]), "\n")
	if start < 0 {
		lines = lines[max(0, len(lines)-consoleLines):]
	}
	return strings.Join(lines[:min(len(lines), consoleLines)], "\n")
}

// Wait implements hypervisor.Machine.
func (m *machine) Wait(ctx context.Context) error {
	select {
	case <-m.ended:
		return m.verdict
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin takes the turn if the machine is in one of the states. The caller gives it back with end.
func (m *machine) begin(ctx context.Context, verb string, allowed ...state) (end func(), err error) {
	select {
	case m.turn <- struct{}{}:
	case <-m.ended:
		return nil, m.refuse(verb, "stopped")
	case <-ctx.Done():
		return nil, fmt.Errorf("%s machine %s: %w", verb, m.plan.config.Name, ctx.Err())
	}
	if m.stopping.Load() || isClosed(m.ended) {
		<-m.turn
		return nil, m.refuse(verb, "stopped")
	}
	for _, state := range allowed {
		if m.state == state {
			return func() { <-m.turn }, nil
		}
	}
	state := m.state
	<-m.turn
	return nil, m.refuse(verb, string(state))
}

func (m *machine) refuse(verb, state string) error {
	return fmt.Errorf("%s machine %s: it is %s: %w", verb, m.plan.config.Name, state, errdefs.ErrFailedPrecondition)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Pause implements hypervisor.Machine.
//
// QEMU's stop takes the rings from vhost-user daemons and cont gives them back. vhost-device-vsock 0.3.0 does not look at them then,
// but waits for a notification, which the guest may have sent already.
func (m *machine) Pause(ctx context.Context) error {
	end, err := m.begin(ctx, "pause", running)
	if err != nil {
		return err
	}
	defer end()
	for _, plugged := range m.devices() {
		if plugged.device.chardev != nil {
			return fmt.Errorf("pause machine %s: a daemon serves its device %v: unplug it: %w", m.plan.config.Name,
				plugged.device.arguments["id"], errdefs.ErrFailedPrecondition)
		}
	}
	return m.move(ctx, "pause", "stop", paused)
}

// Resume implements hypervisor.Machine.
func (m *machine) Resume(ctx context.Context) error {
	end, err := m.begin(ctx, "resume", paused)
	if err != nil {
		return err
	}
	defer end()
	return m.move(ctx, "resume", "cont", running)
}

// Parked implements hypervisor.Machine.
func (m *machine) Parked(ctx context.Context) error {
	end, err := m.begin(ctx, "await the parking of", running)
	if err != nil {
		return err
	}
	defer end()
	if !m.plan.config.Parks {
		return m.refuse("await the parking of", "not one that parks")
	}
	if _, err := m.halted.wait(ctx); err != nil {
		return fmt.Errorf("await the parking of machine %s: %w", m.plan.config.Name, err)
	}
	m.state = paused
	return nil
}

// move runs a command that brings the machine into another state. The caller has the turn.
func (m *machine) move(ctx context.Context, verb, command string, to state) error {
	if err := m.monitor.execute(ctx, command, nil); err != nil {
		return fmt.Errorf("%s machine %s: %w", verb, m.plan.config.Name, err)
	}
	m.state = to
	return nil
}

// Stop implements hypervisor.Machine.
func (m *machine) Stop(ctx context.Context) error {
	m.stop.Do(func() {
		m.stopping.Store(true)
		go m.dismantle()
	})
	select {
	case <-m.stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop machine %s: %w", m.plan.config.Name, ctx.Err())
	}
}

// dismantle ends QEMU and what serves it. It keeps the turn: nothing can be begun after it. QEMU is not asked to quit: what the guest has
// written to a disk is the host's by then, and what it has not is lost either way.
func (m *machine) dismantle() {
	m.qemu.Kill()
	for _, device := range m.devices() {
		device.kill() // so that they end at the same time
	}
	<-m.ended
	m.turn <- struct{}{} // who has it notices that QEMU is gone
	for _, device := range m.devices() {
		device.end()
	}
	m.endServers()
	close(m.stopped)
	if err := m.memory.Close(); err != nil { // nobody has to wait for its pages
		m.logger.Warn("machine's memory not closed", "error", err)
	}
}

// abandon stops a machine that did not come to be, and adds to the error what is known of QEMU.
func (m *machine) abandon(err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
	defer cancel()
	return errors.Join(m.qemu.Explain(err), m.Stop(ctx))
}

// Processes implements hypervisor.Machine.
func (m *machine) Processes() []hypervisor.Process {
	processes := []hypervisor.Process{m.qemu.Process()}
	for _, device := range m.devices() {
		processes = append(processes, device.processes()...)
	}
	return processes
}

// Accelerator implements hypervisor.Machine.
func (m *machine) Accelerator() hypervisor.Accelerator { return m.plan.accelerator }

// Console implements hypervisor.Machine.
func (m *machine) Console() string { return m.console.String() }

// ConsoleSince implements hypervisor.Machine.
func (m *machine) ConsoleSince(offset int64) (text string, end int64, more <-chan struct{}) {
	return m.console.Since(offset)
}
