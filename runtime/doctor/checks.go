package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/config"
)

// shimName is how containerd spells the program behind the runtime io.containerd.limpet.v2.
const shimName = "containerd-shim-limpet-v2"

// stopTimeout bounds the end of the machine that was booted: in good order it takes a tenth of a second.
const stopTimeout = 10 * time.Second

// quiet swallows the log of what the doctor tries: the finding says what matters of it.
var quiet = slog.New(slog.DiscardHandler)

func checkConfig(path string) (config.Config, hypervisor.Check) {
	settings, err := config.Load(path)
	detail := cmp.Or(path, os.Getenv(config.PathVariable))
	if detail == "" {
		detail = config.DefaultPath
		if _, err := os.Stat(detail); err != nil {
			detail = "defaults, as there is no " + detail
		}
	}
	check := hypervisor.NewCheck("configuration", detail, err)
	if err != nil {
		check.Remedy = "correct the file; `limpet config` prints one with every key explained"
	}
	return settings, check
}

func checkFile(name, path string) hypervisor.Check {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	check := hypervisor.NewCheck(name, path, err)
	if err != nil {
		check.Remedy = fmt.Sprintf("run `make install` in limpet's source, or set %q in the configuration to where it is", name)
	}
	return check
}

// checkTools looks for the programs that a guest is given for images and storage. Containers of containerd run without.
func checkTools(dir string) hypervisor.Check {
	for _, name := range []string{"limpet-images", "mke2fs", "busybox"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return hypervisor.Check{
				Name: "tools", OK: true, Detail: fmt.Sprintf("%v: guests can neither pull images nor format a disk nor run a shell of their own", err),
				Remedy: "run `make install` in limpet's source, or set \"tools\" in the configuration to where they are",
			}
		}
	}
	return hypervisor.NewCheck("tools", dir, nil)
}

// checkPool counts the machines that wait. All works without.
func checkPool(stateDir string) hypervisor.Check {
	spares, err := runtime.Spares(stateDir)
	waiting := 0
	for _, spare := range spares {
		if spare.Parked {
			waiting++
		}
	}
	detail := fmt.Sprintf("%d machines wait for sandboxes, %d are being made", waiting, len(spares)-waiting)
	if len(spares) == 0 {
		detail = "no machines wait for sandboxes: `limpet pool` would keep some"
	}
	return hypervisor.NewCheck("pool", detail, err)
}

func checkStateDir(path string) hypervisor.Check {
	err := os.MkdirAll(path, 0o711)
	if err == nil {
		var probe string
		if probe, err = os.MkdirTemp(path, "doctor-"); err == nil {
			err = os.Remove(probe)
		}
	}
	check := hypervisor.NewCheck("state", path, err)
	if err != nil {
		check.Remedy = "be root, or set state_dir in the configuration to a directory that can be written"
	}
	return check
}

// checkEgress tells whether sandboxes can have an egress policy. Without one they need nothing of it, so that it is a failure only where
// the configuration gives one to all.
func checkEgress(needed bool, probe func() error) hypervisor.Check {
	const name = "egress"
	err := probe()
	if err == nil {
		return hypervisor.NewCheck(name, "policies hold: the packet filter has what they take", nil)
	}
	return hypervisor.Check{
		Name: name, OK: !needed, Detail: fmt.Sprintf("a sandbox with an egress policy would not start: %v", err),
		Remedy: "as root, load the modules nft_dup_netdev, nft_log, nft_limit and nfnetlink_log, or do without egress policies",
	}
}

// checkShim looks for the shim where containerd would, as far as the doctor can know: in PATH. It is no failure if it is not
// there, as containerd's PATH may be another and its configuration may name the shim by its path.
func checkShim() hypervisor.Check {
	path, err := exec.LookPath(shimName)
	if err != nil {
		return hypervisor.Check{
			Name: "shim", OK: true, Detail: shimName + " is not in PATH",
			Remedy: "run `make install` in limpet's source; containerd looks for the shim in its own PATH",
		}
	}
	return hypervisor.NewCheck("shim", path, nil)
}

// checkBoot brings up the machine of an empty sandbox. If sandboxes are clones, it makes the template if there is none.
func checkBoot(ctx context.Context, settings config.Config) hypervisor.Check {
	start := time.Now()
	var how, remedy string
	err := bootOnce(ctx, settings, func(sandbox *runtime.Sandbox) {
		if settings.Template.Enabled {
			how, remedy = origin(ctx, settings, sandbox)
			how = ", " + how
		}
	})
	check := hypervisor.NewCheck("boot", fmt.Sprintf("a machine was up, its agent ready, and gone again after %v%s",
		time.Since(start).Round(10*time.Millisecond), how), err)
	check.Remedy = remedy
	if errors.Is(err, context.DeadlineExceeded) {
		check.Remedy = "raise timeouts.boot in the configuration if this host is only slow"
	}
	return check
}

// bootOnce brings an empty sandbox up, shows it, and ends it.
func bootOnce(ctx context.Context, settings config.Config, show func(*runtime.Sandbox)) (err error) {
	bundle, err := os.MkdirTemp("", "limpet-doctor-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(bundle)) }()
	spec, err := json.Marshal(specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "rootfs"}, Process: &specs.Process{Cwd: "/", Args: []string{"none"}},
		Linux: &specs.Linux{},
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), spec, 0o600); err != nil {
		return err
	}
	sandbox, err := runtime.NewSandbox(ctx, runtime.SandboxOptions{
		ID: filepath.Base(bundle), Namespace: "limpet-doctor", Bundle: bundle, Config: settings, Observer: nobody{}, Logger: quiet,
	})
	if err != nil {
		return err
	}
	show(sandbox)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return sandbox.Stop(ctx)
}

// nobody observes a sandbox without containers.
type nobody struct{}

func (nobody) OOM(string)                                  {}
func (nobody) Exited(*runtime.Process, runtime.ExitStatus) {}
