package install

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

const (
	// runtimeType is limpet's name as a runtime. containerd makes the name of the shim's program of it.
	runtimeType = "io.containerd.limpet.v2"
	// dropInPattern is the import of the drop-ins beside containerd's configuration. containerd 2.2 and later write the same
	// directory, as an absolute path, into a new configuration; no version of containerd reads it without such a line.
	dropInPattern = "conf.d/*.toml"
	// newVersion is the version of a configuration where there is none yet: every containerd from 2.0 on reads it.
	newVersion = 3
	// dropInHeader begins a drop-in that may be replaced and removed.
	dropInHeader = "# Made by `limpet install`, which replaces it; `limpet install --uninstall` removes it.\n"
	// newHeader begins a configuration that was made because there was none.
	newHeader = "# Made by `limpet install`: containerd's defaults, and the drop-ins beside this file.\n"
)

// runtimeHandler is a name that a pod's RuntimeClass can give, and how containerd makes such a pod.
type runtimeHandler struct{ Name, Sandboxer string }

// handlers are limpet's. The one that carries limpet's name has containerd's own way of making a pod, which containerd 2.0 to 2.4
// share and which every CRI feature of theirs was made for first; the Sandbox API still changes from version to version.
var handlers = []runtimeHandler{{"limpet", "podsandbox"}, {"limpet-shim", "shim"}}

// criPlugins are the names of the plugin that knows the handlers, by the version of the configuration.
var criPlugins = map[int]string{
	2: "io.containerd.grpc.v1.cri",
	3: "io.containerd.cri.v1.runtime",
	4: "io.containerd.cri.v1.runtime",
}

// containerdFiles are containerd's configuration as it is found. A file that is not there is nil.
type containerdFiles struct {
	path    string   // of the main file, as containerd knows it
	main    []byte   // its text
	dropIn  []byte   // the text of limpet's drop-in
	dropIns []string // the other drop-ins beside the main file, which are not necessarily read
}

// containerdPlan is what the files have to be. A text that is nil stays as it is.
type containerdPlan struct {
	main, dropIn []byte
	kept         []string // the handlers that the main file has itself
}

// mainFile is what matters of a configuration file.
type mainFile struct {
	Version         int            `toml:"version"`
	Imports         []string       `toml:"imports"`
	DisabledPlugins []string       `toml:"disabled_plugins"`
	Plugins         map[string]any `toml:"plugins"`
}

func dropInPath(main string) string {
	return filepath.Join(filepath.Dir(main), "conf.d", "limpet.toml")
}

// planContainerd computes the configuration that has limpet's handlers. configPath is the limpet configuration that they name, or
// empty. What the main file says already stays; a main file in which a change would not be safe is an error that says what to do.
func planContainerd(files containerdFiles, configPath string) (containerdPlan, error) {
	fail := func(format string, arguments ...any) (containerdPlan, error) {
		return containerdPlan{}, fmt.Errorf("containerd's configuration %s %w: %w", files.path, fmt.Errorf(format, arguments...),
			errdefs.ErrFailedPrecondition)
	}
	if files.dropIn != nil && !bytes.HasPrefix(files.dropIn, []byte(dropInHeader)) {
		return fail("has a drop-in %s that limpet did not make: move it away", dropInPath(files.path))
	}
	text := files.main
	if text == nil {
		text = newMain()
	}
	var main mainFile
	if err := toml.Unmarshal(text, &main); err != nil {
		return fail("is not valid: %w", err)
	}
	plugin, ok := criPlugins[main.Version]
	if !ok {
		return fail("has version %d, but handlers can be added to versions 2 to 4 only: put what `containerd config migrate` prints "+
			"in its place", main.Version)
	}
	for _, name := range main.DisabledPlugins {
		if slices.Contains([]string{"io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"}, name) {
			return fail("disables CRI, by which Kubernetes speaks to containerd: remove %q from disabled_plugins", name)
		}
	}

	var plan containerdPlan
	missing := slices.Clone(handlers)
	for _, handler := range handlers {
		own, ok := lookUp(main.Plugins, plugin, "containerd", "runtimes", handler.Name).(map[string]any)
		if !ok {
			continue
		}
		if own["runtime_type"] != runtimeType {
			return fail("has a handler %q of another runtime, %v: rename it", handler.Name, own["runtime_type"])
		}
		plan.kept = append(plan.kept, handler.Name)
		missing = slices.DeleteFunc(missing, func(other runtimeHandler) bool { return other == handler })
	}
	if len(missing) == 0 && files.dropIn == nil {
		return plan, nil
	}
	dropIn, err := dropInText(main.Version, plugin, missing, configPath)
	if err != nil {
		return fail("cannot have a drop-in: %w", err)
	}
	if !bytes.Equal(dropIn, files.dropIn) {
		plan.dropIn = dropIn
	}
	switch {
	case files.main == nil:
		plan.main = text
	case imports(files.path, main.Imports, dropInPath(files.path)):
	case len(files.dropIns) > 0:
		return fail("does not import the drop-ins beside it, and importing limpet's would also import %s: add imports = [%q] to it, "+
			"or move them away", strings.Join(files.dropIns, ", "), dropInPattern)
	default:
		if plan.main, err = addImport(text, main.Imports); err != nil {
			return fail("%w", err)
		}
	}
	return plan, nil
}

// newMain is the main file where there was none.
func newMain() []byte {
	return fmt.Appendf(nil, "%sversion = %d\nimports = [%q]\n", newHeader, newVersion, dropInPattern)
}

// lookUp returns the value at the end of a path of keys, or nil.
func lookUp(table map[string]any, keys ...string) any {
	var value any = table
	for _, key := range keys {
		table, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = table[key]
	}
	return value
}

// imports tells whether the imports of the file at main include the file at target, by containerd's rules: a relative path begins
// where the file is, and only one with a star is a pattern.
func imports(main string, list []string, target string) bool {
	return slices.ContainsFunc(list, func(entry string) bool {
		if !path.IsAbs(entry) {
			entry = path.Join(path.Dir(main), entry)
		}
		matched, err := path.Match(path.Clean(entry), target)
		return err == nil && matched && (strings.Contains(entry, "*") || path.Clean(entry) == target)
	})
}

var (
	importsLine = regexp.MustCompile(`(?m)^(imports[ \t]*=[ \t]*\[)([^\[\]#]*)(\][ \t]*(?:#.*)?)$`)
	versionLine = regexp.MustCompile(`(?m)^version[ \t]*=.*$`)
)

// addImport adds dropInPattern to the imports of a file. The text is changed in one place, and only if nothing but the imports
// means something else afterwards.
func addImport(text []byte, list []string) ([]byte, error) {
	var changed []byte
	if at := versionLine.FindIndex(text); list == nil && at != nil {
		changed = slices.Concat(text[:at[1]], fmt.Appendf(nil, "\nimports = [%q]", dropInPattern), text[at[1]:])
	} else {
		changed = importsLine.ReplaceAllFunc(text, func(line []byte) []byte {
			parts := importsLine.FindSubmatch(line)
			entries := strings.TrimSuffix(strings.TrimSpace(string(parts[2])), ",")
			if entries != "" {
				entries += ", "
			}
			return fmt.Appendf(nil, "%s%s%q%s", parts[1], entries, dropInPattern, parts[3])
		})
	}
	if !onlyImportsDiffer(text, changed, append(slices.Clone(list), dropInPattern)) {
		return nil, fmt.Errorf("has imports that cannot be changed safely: add %q to them by hand", dropInPattern)
	}
	return changed, nil
}

// onlyImportsDiffer tells whether two texts are the same configuration, but for the imports of the second one.
func onlyImportsDiffer(text, changed []byte, want []string) bool {
	var before, after map[string]any
	var imports mainFile
	if errors.Join(toml.Unmarshal(text, &before), toml.Unmarshal(changed, &after), toml.Unmarshal(changed, &imports)) != nil {
		return false
	}
	delete(before, "imports")
	delete(after, "imports")
	return reflect.DeepEqual(before, after) && slices.Equal(imports.Imports, want)
}

var dropInTemplate = template.Must(template.New("drop-in").Funcs(template.FuncMap{
	"quote": func(text string) string { return fmt.Sprintf("%q", text) },
}).Parse(dropInHeader +
	`# The version is that of the file that imports this one: containerd before 2.3 reads all files by the version of the last.
version = {{.Version}}
{{range .Handlers}}
[plugins.{{quote $.Plugin}}.containerd.runtimes.{{.Name}}]
runtime_type = {{quote $.Type}}
{{if eq .Sandboxer "podsandbox"}}# How a pod is made: of a pause container, in the way that all versions of containerd share.
{{else}}# How a pod is made: by the Sandbox API.
{{end}}sandboxer = {{quote .Sandboxer}}
# All of limpet's annotations reach it, so that one that its configuration does not allow is an error and not just without effect.
pod_annotations = ["io.limpet.*"]
# A privileged container may use every device of its machine, which is not the host.
privileged_without_host_devices = true
privileged_without_host_devices_all_devices_allowed = true
{{if $.ConfigPath}}
[plugins.{{quote $.Plugin}}.containerd.runtimes.{{.Name}}.options]
ConfigPath = {{quote $.ConfigPath}}
{{end}}{{end}}`))

// dropInText is limpet's drop-in, which may have no handler at all.
func dropInText(version int, plugin string, handlers []runtimeHandler, configPath string) ([]byte, error) {
	var text bytes.Buffer
	err := dropInTemplate.Execute(&text, map[string]any{
		"Version": version, "Plugin": plugin, "Handlers": handlers, "Type": runtimeType, "ConfigPath": configPath,
	})
	return text.Bytes(), err
}
