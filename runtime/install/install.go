package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/template"
)

// limpetProgram is the operator's command line, which has the doctor.
const limpetProgram = "limpet"

// Options is what is installed where. Paths but Root and From are the host's.
type Options struct {
	Root             string // the host's root: "/", or where it is mounted (an absolute path)
	From             string // the root that limpet's files are copied from; if it is Root they are there already
	ContainerdConfig string // containerd's main configuration file, which need not exist
	Address          string // containerd's socket
	Config           string // limpet's configuration for the handlers; empty: the default one
	DryRun           bool   // say what would be done, do nothing
	Restart          bool   // restart containerd if that is needed
	SkipDoctor       bool   // do not ask whether a container could run
}

// Report is told what happens, a line at a time. The verb is one word.
type Report func(verb, text string)

// Install puts limpet on the host: its files, then, if the doctor agrees, the handlers in containerd's configuration. What containerd
// then does not read as it should is taken back.
func Install(ctx context.Context, options Options, report Report) error {
	host := newHost(options.Root)
	settings, err := loadConfig(host, options.Config)
	if err != nil {
		return err
	}
	program, err := findContainerd(ctx, host, report)
	if err != nil {
		return err
	}
	var plan Plan
	if plan.Files, err = planFiles(host, options.From, settings); err != nil {
		return err
	}
	if plan.Containerd, plan.Notes, err = planConfiguration(host, options); err != nil {
		return err
	}
	if options.DryRun {
		plan.print(report)
		return nil
	}
	files := application{host: host}
	if err := files.apply(plan.Files, reportDone(report)); err != nil {
		return err
	}
	if err := files.commit(); err != nil {
		return err
	}
	if !options.SkipDoctor {
		if err := askDoctor(ctx, host, options.Config); err != nil {
			return err
		}
	}
	configuration := application{host: host}
	if err := configuration.apply(plan.Containerd, reportDone(report)); err != nil {
		return err
	}
	if program != "" {
		if err := askConfig(ctx, host, program, options.ContainerdConfig); err != nil {
			return errors.Join(fmt.Errorf("containerd's configuration is as before, as the new one does not do: %w", err),
				configuration.takeBack())
		}
	}
	if err := configuration.commit(); err != nil {
		return err
	}
	reportNotes(plan, report)
	return restart(ctx, host, options, len(plan.Containerd) > 0, true, report)
}

// templatesTimeout is how long to wait for who builds a template.
const templatesTimeout = 30 * time.Second

// Uninstall takes limpet's handlers out of containerd's configuration, and its files and templates off the host. Its own configuration
// stays.
func Uninstall(ctx context.Context, options Options, report Report) error {
	host := newHost(options.Root)
	settings, err := loadConfig(host, options.Config)
	if err != nil {
		return err
	}
	var plan Plan
	if plan.Files, err = planUninstall(host, settings); err != nil {
		return err
	}
	templates, err := host.path(settings.Template.Dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(templates); err == nil {
		plan.Templates = settings.Template.Dir
	}
	files, mode, err := readContainerd(host, options.ContainerdConfig)
	if err != nil {
		return err
	}
	backup, _, err := host.read(backupPath(options.ContainerdConfig))
	if err != nil {
		return err
	}
	if plan.Containerd, plan.Notes, err = planRemoval(files, backup, mode); err != nil {
		return err
	}
	if options.DryRun {
		plan.print(report)
		return nil
	}
	all := application{host: host}
	if err := all.apply(append(plan.Containerd, plan.Files...), reportDone(report)); err != nil {
		return err
	}
	if err := all.commit(); err != nil {
		return err
	}
	if plan.Templates != "" {
		removeTemplates(ctx, plan.Templates, templates, report)
	}
	reportNotes(plan, report)
	return restart(ctx, host, options, len(plan.Containerd) > 0, false, report)
}

// removeTemplates removes the templates of a directory that the host knows by another path. They are no reason to fail: whoever installs
// limpet again finds them, and makes new ones.
func removeTemplates(ctx context.Context, dir, path string, report Report) {
	ctx, cancel := context.WithTimeout(ctx, templatesTimeout)
	defer cancel()
	if err := template.Open(path).Clear(ctx); err != nil {
		report("note", fmt.Sprintf("the templates in %s stay: %v", dir, err))
		return
	}
	report("remove", "the templates in "+dir)
}

// loadConfig reads limpet's configuration on the host.
func loadConfig(host host, named string) (config.Config, error) {
	if named == "" {
		path, err := host.path(config.DefaultPath)
		if err != nil {
			return config.Config{}, err
		}
		return config.LoadIfThere(path)
	}
	path, err := host.path(named)
	if err != nil {
		return config.Config{}, err
	}
	return config.Load(path)
}

// findContainerd returns containerd's program, or nothing if the host has none in sight.
func findContainerd(ctx context.Context, host host, report Report) (string, error) {
	program, err := host.program("containerd")
	if errdefs.IsNotFound(err) {
		report("note", fmt.Sprintf("what is written is not checked by containerd: %v", err))
		return "", nil
	}
	if err != nil {
		return "", err
	}
	version, err := askVersion(ctx, host, program)
	if err != nil {
		return "", err
	}
	report("found", fmt.Sprintf("containerd %s at %s", version, program))
	return program, nil
}

func planConfiguration(host host, options Options) ([]Change, []string, error) {
	files, mode, err := readContainerd(host, options.ContainerdConfig)
	if err != nil {
		return nil, nil, err
	}
	plan, err := planContainerd(files, options.Config)
	if err != nil {
		return nil, nil, err
	}
	var notes []string
	for _, name := range plan.kept {
		notes = append(notes, fmt.Sprintf("handler %s stays as %s has it", name, files.path))
	}
	return containerdChanges(files, mode, plan), notes, nil
}

// readContainerd reads containerd's configuration, with the permissions of its main file.
func readContainerd(host host, path string) (containerdFiles, fs.FileMode, error) {
	files := containerdFiles{path: path}
	mode := fs.FileMode(0o644)
	var err error
	if files.main, mode, err = host.read(path); err != nil {
		return files, mode, err
	}
	if files.main == nil {
		mode = 0o644
	}
	if files.dropIn, _, err = host.read(dropInPath(path)); err != nil {
		return files, mode, err
	}
	dir, err := host.path(filepath.Dir(dropInPath(path)))
	if err != nil {
		return files, mode, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return files, mode, err
	}
	for _, entry := range entries {
		if name := entry.Name(); strings.HasSuffix(name, ".toml") && name != filepath.Base(dropInPath(path)) {
			files.dropIns = append(files.dropIns, filepath.Join(filepath.Dir(dropInPath(path)), name))
		}
	}
	return files, mode, nil
}

// askDoctor runs the host's `limpet doctor`, whose report is the standard output's.
func askDoctor(ctx context.Context, host host, named string) error {
	program := filepath.Join(programDir, limpetProgram)
	if !host.mounted() {
		var err error
		if program, err = os.Executable(); err != nil {
			return err
		}
	}
	arguments := []string{"doctor"}
	if named != "" {
		arguments = append(arguments, "--config", named)
	}
	cmd := host.command(ctx, program, arguments...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("containerd's configuration is not touched, as limpet would not work here: see the report above (%s doctor: %w)",
			program, err)
	}
	return nil
}

// restart brings containerd to read its configuration, or says that somebody has to. Whether that is needed the running one knows,
// but for what was changed right now.
func restart(ctx context.Context, host host, options Options, changed, want bool, report Report) error {
	now, err := askRunning(ctx, host, options.Address, askTimeout, false)
	switch {
	case errdefs.IsUnavailable(err):
		report("note", fmt.Sprintf("containerd reads its configuration when it is started: %v", err))
		return nil
	case err != nil:
		return err
	case !changed && now.knows == want:
		report("ready", fmt.Sprintf("containerd %s needs no restart", now.version))
		return nil
	case !options.Restart:
		report("next", fmt.Sprintf("restart containerd %s: systemctl restart containerd (containers go on)", now.version))
		return nil
	}
	report("restart", "containerd (containers go on)")
	ctx, cancel := context.WithTimeout(ctx, restartTimeout)
	defer cancel()
	program, err := host.program("systemctl")
	if err != nil {
		return fmt.Errorf("restart containerd by hand: %w", err)
	}
	if output, err := host.command(ctx, program, "restart", "containerd").CombinedOutput(); err != nil {
		return fmt.Errorf("restart containerd by hand: systemctl restart containerd: %w: %s", err, output)
	}
	now, err = askRunning(ctx, host, options.Address, restartTimeout, true)
	if err != nil {
		return err
	}
	if want && !now.knows { // handlers that are left are the operator's own
		return fmt.Errorf("containerd was restarted, but reads another configuration than %s: name that one with --containerd-config: %w",
			options.ContainerdConfig, errdefs.ErrFailedPrecondition)
	}
	report("ready", "containerd "+now.version)
	return nil
}

func reportDone(report Report) func(Change) {
	return func(change Change) {
		verb, rest, _ := strings.Cut(change.String(), " ")
		report(verb, rest)
	}
}

func reportNotes(plan Plan, report Report) {
	for _, note := range plan.Notes {
		report("note", note)
	}
}

// print tells what the plan would do, with the text of the files that it would write.
func (p Plan) print(report Report) {
	for _, change := range append(p.Files, p.Containerd...) {
		report("would", change.String())
		for line := range strings.Lines(string(change.Text)) {
			report("", strings.TrimSuffix(line, "\n"))
		}
	}
	if p.Templates != "" {
		report("would", "remove the templates in "+p.Templates)
	}
	reportNotes(p, report)
	if len(p.Files)+len(p.Containerd) == 0 && p.Templates == "" {
		report("ready", "there is nothing to do")
	}
}
