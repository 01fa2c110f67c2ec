package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/hypervisor/qemu"
	"github.com/limpet-run/limpet/hypervisor/vsock"
	"github.com/limpet-run/limpet/integration/harness"
	"github.com/limpet-run/limpet/runtime/config"
)

// boots measures limpet beside bare machines: of the same kernel, the same size, and the same image but for the first program.
func (b *bench) boots() (_ []row, err error) {
	bare, err := b.bareMachine()
	if err != nil {
		return nil, err
	}
	booting, err := b.bootingConfig()
	if err != nil {
		return nil, err
	}
	cold, boot, err := b.alternate("cold boot", b.runs, func() (float64, error) { return b.coldBoot(booting) }, bare.boot)
	if err != nil {
		return nil, err
	}
	spec := b.spec(harness.Limpet, []string{"--detach", "--null-io"}, "sleep", "1000000")
	if err := b.daemon.Ctr(b.ctx, b.daemon.Args("run", spec)...).Err(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.daemon.Remove(b.ctx, spec.ID)) }()
	stdout, raw, err := b.alternate("vsock", b.runs, func() (float64, error) { return b.fifoRate(spec.ID, bare.dir) }, bare.sendRate)
	return []row{
		{Name: "cold boot to ready", Unit: "ms", Limpet: cold, Reference: boot, ReferenceName: "bare boot, power-off", Aim: "<= 1.3"},
		{Name: "256 MiB of stdout to a FIFO", Unit: "MiB/s", Limpet: stdout, Reference: raw, ReferenceName: "bare vsock", Aim: ">= 0.8"},
	}, err
}

// started is the line of limpet's log about a sandbox whose agent is ready, with the milliseconds since it was asked for.
var started = regexp.MustCompile(`msg="sandbox started".* ms=([0-9.]+)`)

// coldBoot is the time from the beginning of a sandbox to its agent's being ready, as limpet's log says.
func (b *bench) coldBoot(config string) (float64, error) {
	before := len(b.daemon.Log())
	spec := b.spec(harness.Limpet, []string{"--rm"}, "true")
	spec.Config = config
	if err := b.daemon.Ctr(b.ctx, b.daemon.Args("run", spec)...).Err(); err != nil {
		return 0, err
	}
	match := started.FindStringSubmatch(b.daemon.Log()[before:])
	if match == nil {
		return 0, errors.New("limpet's log does not say how long the sandbox took to start")
	}
	return strconv.ParseFloat(match[1], 64)
}

// bareMachine starts machines with guestinit in the place of limpet's agent.
type bareMachine struct {
	*bench
	image, dir string
}

// bareMachine makes what bare machines need, in a directory that is made once.
func (b *bench) bareMachine() (*bareMachine, error) {
	dir := filepath.Join(b.daemon.Dir, "bench")
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrExist) {
		return &bareMachine{bench: b, image: filepath.Join(dir, "image"), dir: dir}, nil
	}
	if err != nil {
		return nil, err
	}
	image, err := b.daemon.Build.GuestImage(b.ctx, dir)
	return &bareMachine{bench: b, image: image, dir: dir}, err
}

// program is guestinit itself.
func (b *bareMachine) program() string { return filepath.Join(b.dir, "guestinit") }

var quiet = slog.New(slog.DiscardHandler)

// start starts a machine whose guestinit does what is asked for, with the devices.
func (b *bareMachine) start(test string, devices ...hypervisor.Device) (hypervisor.Machine, error) {
	size := config.Default().VM
	hypervisorConfig := config.Default().Hypervisor
	machine, err := qemu.New(qemu.Options{Path: hypervisorConfig.Path, Logger: quiet}).Boot(b.ctx, hypervisor.Config{
		Name: "bench", Dir: b.dir, Kernel: b.daemon.Build.Path("vmlinux"), Initrd: b.image,
		Cmdline: []string{"quiet", "limpet_test=" + test}, VCPUs: size.VCPUs, MemoryMiB: size.MemoryMiB,
		Accelerator: hypervisor.AcceleratorAuto,
	})
	if err != nil {
		return nil, err
	}
	for _, device := range devices {
		err = errors.Join(err, machine.Plug(b.ctx, device))
	}
	if err == nil {
		err = machine.Resume(b.ctx)
	}
	if err != nil {
		return nil, errors.Join(err, machine.Stop(b.ctx))
	}
	return machine, nil
}

// end waits until a machine has powered itself off.
func (b *bareMachine) end(machine hypervisor.Machine) error {
	if err := machine.Wait(b.ctx); err != nil {
		return errors.Join(fmt.Errorf("%w; its console ends:\n%s", err, machine.Console()), machine.Stop(b.ctx))
	}
	return machine.Stop(b.ctx)
}

// boot is the time of a machine that powers off as soon as it is up.
func (b *bareMachine) boot() (float64, error) {
	began := time.Now()
	machine, err := b.start("off")
	if err != nil {
		return 0, err
	}
	err = b.end(machine)
	return milliseconds(began), err
}

// fifoRate is the rate of a process's output where limpet leaves it: in the FIFO, which ctr would read.
func (b *bench) fifoRate(id, dir string) (_ float64, err error) {
	path := filepath.Join(dir, "stdout")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return 0, err
	}
	fifo, err := os.OpenFile(path, os.O_RDWR, 0) // for writing too, or the opening would wait for a writer
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, fifo.Close(), os.Remove(path)) }()
	cmd := b.exec([]string{"--log-uri", "fifo://" + path, id}, zeroBytes...)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	rate, readErr := receive(fifo)
	return rate, errors.Join(readErr, cmd.Wait())
}

// vsock makes a device whose sockets are below a directory. The caller closes it.
func (b *bench) vsock(dir string) (vsock.Device, error) {
	sockets, err := os.MkdirTemp(dir, "vsock")
	if err != nil {
		return nil, err
	}
	return vsock.New(b.ctx, vsock.Options{
		Backend: vsock.BackendAuto, Dir: sockets, Daemon: b.daemon.Build.Path("bin/vhost-device-vsock"),
		SessionPortBase: protocol.SessionPortBase, Logger: quiet,
	})
}

// sendRate is the rate of a vsock connection over which a guest sends as fast as it can.
func (b *bareMachine) sendRate() (_ float64, err error) {
	device, err := b.vsock(b.dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, device.Close()) }()
	machine, err := b.start("send", hypervisor.Vsock{ID: "vsock", Socket: device})
	if err != nil {
		return 0, err
	}
	conn, err := device.Accept(b.ctx)
	if err != nil {
		return 0, errors.Join(err, machine.Stop(b.ctx))
	}
	rate, err := receive(conn)
	if err = errors.Join(err, conn.Close()); err != nil {
		return 0, errors.Join(err, machine.Stop(b.ctx))
	}
	return rate, b.end(machine)
}
