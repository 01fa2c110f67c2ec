package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/hypervisor/qemu"
	"github.com/limpet-run/limpet/integration/harness"
	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/config"
)

const (
	// privateClones is how many bare clones on private memory are measured together: they share what they have not written.
	privateClones = 10
	// settleTime is how long machines may take to give back the memory that they no longer use, before it is measured.
	settleTime = 15 * time.Second
	// bareMemoryMiB is the memory of a template (runtime has the same).
	bareMemoryMiB = 256
)

// wakes measures how soon after its start QEMU's guest says hello, in a clone and in a machine that boots: alone, and in a sandbox, where
// much else is started and plugged meanwhile.
func (b *bench) wakes() ([]row, error) {
	alone, err := b.lonelyWake()
	if err != nil {
		return nil, err
	}
	booting, err := b.bootingConfig()
	if err != nil {
		return nil, err
	}
	hello := row{Name: "the same in a sandbox", Unit: "ms", ReferenceName: "boot"}
	session := row{Name: "the same, until the session is ready", Unit: "ms", ReferenceName: "boot"}
	awake := func(config string, greeted *series) func() (float64, error) {
		return func() (float64, error) {
			first, ready, err := b.awake(config)
			*greeted = append(*greeted, first)
			return ready, err
		}
	}
	session.Limpet, session.Reference, err = b.alternate("from QEMU's start to the agent's hello, in a sandbox", b.starts,
		awake("", &hello.Limpet), awake(booting, &hello.Reference))
	return []row{alone, hello, session}, err
}

// lonelyWake measures machines with limpet's agent and a vsock device, and nothing else of a sandbox.
func (b *bench) lonelyWake() (row, error) {
	template, err := b.parked("alone", false)
	if err != nil {
		return row{}, err
	}
	hello := row{Name: "from QEMU's start to the agent's hello, clone", Unit: "ms", ReferenceName: "boot", Aim: "limpet <= 150 ms"}
	booting := template.config
	booting.Cmdline = []string{"quiet"}
	hello.Limpet, hello.Reference, err = b.alternate("from QEMU's start to the agent's hello", b.starts,
		func() (float64, error) {
			return b.hello(template.dir, func() (hypervisor.Machine, error) {
				return template.driver.Restore(b.ctx, template.config, template.saved)
			})
		},
		func() (float64, error) {
			return b.hello(template.dir, func() (hypervisor.Machine, error) { return template.driver.Boot(b.ctx, booting) })
		})
	return hello, err
}

// hello starts a machine and returns how long its agent takes to say hello. dir is for the vsock device.
func (b *bench) hello(dir string, start func() (hypervisor.Machine, error)) (_ float64, err error) {
	device, err := b.vsock(dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, device.Close()) }()
	began := time.Now()
	machine, err := start()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, machine.Stop(context.WithoutCancel(b.ctx))) }()
	if err := machine.Plug(b.ctx, hypervisor.Vsock{ID: "vsock", Socket: device}); err != nil {
		return 0, err
	}
	if err := machine.Resume(b.ctx); err != nil {
		return 0, err
	}
	conn, err := device.Accept(b.ctx)
	if err != nil {
		return 0, err
	}
	session := protocol.NewHostConn(conn)
	defer func() { err = errors.Join(err, session.Close()) }()
	incoming, err := session.Read()
	took := milliseconds(began)
	if _, ok := incoming.Message.(protocol.Hello); err == nil && !ok {
		err = fmt.Errorf("the agent says %T first", incoming.Message)
	}
	return took, err
}

// bootingConfig is a configuration by which sandboxes boot.
func (b *bench) bootingConfig() (string, error) {
	path := filepath.Join(b.daemon.Dir, "booting.toml")
	return path, b.daemon.WriteLimpetConfig(path, map[string]any{"template": map[string]any{"enabled": false}})
}

// awake runs a container and returns what its trace says: how long after the beginning of the making of QEMU its agent said hello, and
// the session was ready. The devices are plugged meanwhile.
func (b *bench) awake(config string) (hello, session float64, err error) {
	spec := b.spec(harness.Limpet, []string{"--rm"}, "true")
	spec.Config = config
	if err := b.daemon.Ctr(b.ctx, b.daemon.Args("run", spec)...).Err(); err != nil {
		return 0, 0, err
	}
	traces, err := runtime.LoggedTraces(strings.NewReader(b.daemon.Log()))
	if err != nil {
		return 0, 0, err
	}
	for _, trace := range traces {
		if trace.ID == spec.ID && (trace.Template == "") == (config != "") {
			return awakeIn(trace)
		}
	}
	return 0, 0, fmt.Errorf("the log has no trace of %s, or of one that was started in another way", spec.ID)
}

func awakeIn(trace runtime.Trace) (hello, session float64, err error) {
	ends := map[string]float64{}
	begin := -1.0
	for _, part := range trace.Parts {
		if part.Name != runtime.PartSandbox {
			continue
		}
		for _, stage := range part.Stages {
			ends[stage.Name] = stage.BeginMS + stage.MS
			if stage.Name == runtime.StageQEMU {
				begin = stage.BeginMS
			}
		}
	}
	greeted, waked := ends[runtime.StageWake]
	if !waked {
		greeted, waked = ends[runtime.StageAgent]
	}
	ready, shook := ends[runtime.StageHandshake]
	if begin < 0 || !waked || !shook {
		return 0, 0, fmt.Errorf("the trace of %s has no stages of its machine", trace.ID)
	}
	return greeted - begin, ready - begin, nil
}

// privateMemory measures what a bare clone on private memory adds to the host.
func (b *bench) privateMemory() (_ []row, err error) {
	b.progress("bare clones on private memory")
	template, err := b.parked("private", true)
	if err != nil {
		return nil, err
	}
	var clones []hypervisor.Machine
	defer func() {
		for _, clone := range clones {
			err = errors.Join(err, clone.Stop(context.WithoutCancel(b.ctx)))
		}
	}()
	for range privateClones {
		clone, err := template.driver.Restore(b.ctx, template.config, template.saved)
		if err != nil {
			return nil, err
		}
		clones = append(clones, clone)
		if err := clone.Resume(b.ctx); err != nil {
			return nil, err
		}
	}
	if err := b.settle(); err != nil {
		return nil, err
	}
	var sizes series
	for _, clone := range clones {
		for _, process := range clone.Processes() {
			size, err := proportionalSize(process.PID)
			if err != nil {
				return nil, err
			}
			sizes = append(sizes, float64(size)/1024)
		}
	}
	return []row{{
		Name: fmt.Sprintf("memory of each of %d bare clones, private (PSS)", privateClones), Unit: "MiB", Limpet: sizes, Aim: "limpet <= 28 MiB",
	}}, nil
}

// parked is a machine with limpet's agent that was saved.
type parked struct {
	driver     hypervisor.Driver
	config     hypervisor.Config // with which it is to be restored
	dir, saved string
}

// parked boots a machine until it parks, and saves it below a directory of that name.
func (b *bench) parked(name string, private bool) (_ parked, err error) {
	settings := config.Default()
	dir := filepath.Join(b.daemon.Dir, name)
	p := parked{driver: qemu.New(qemu.Options{Path: settings.Hypervisor.Path, Logger: quiet}), dir: dir, saved: filepath.Join(dir, "saved")}
	if err := os.MkdirAll(p.saved, 0o700); err != nil {
		return p, err
	}
	p.config = hypervisor.Config{
		Name: name, Dir: dir, Kernel: b.daemon.Build.Path("vmlinux"), Initrd: b.daemon.Build.Path("initramfs"),
		Cmdline: []string{"quiet", protocol.ParkParameter}, VCPUs: settings.VM.VCPUs, MemoryMiB: bareMemoryMiB, PrivateMemory: private,
		Ports: hypervisor.DefaultPorts, Accelerator: hypervisor.AcceleratorAuto,
	}
	booting := p.config
	booting.Parks = true
	machine, err := p.driver.Boot(b.ctx, booting)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, machine.Stop(context.WithoutCancel(b.ctx))) }()
	if err := machine.Resume(b.ctx); err != nil {
		return p, err
	}
	if err := machine.Parked(b.ctx); err != nil {
		return p, err
	}
	return p, machine.Save(b.ctx, p.saved)
}

// settle waits until machines have given back what they can.
func (b *bench) settle() error {
	select {
	case <-time.After(settleTime):
		return nil
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
}
