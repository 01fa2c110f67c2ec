package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/template"
)

func TestHealthy(t *testing.T) {
	good, bad := Finding{Check: hypervisor.Check{OK: true, Remedy: "could be better"}}, Finding{}
	for _, test := range []struct {
		findings []Finding
		want     bool
	}{
		{nil, true},
		{[]Finding{good, good}, true},
		{[]Finding{bad, good}, false},
		{[]Finding{good, bad}, false},
	} {
		if got := Healthy(test.findings); got != test.want {
			t.Errorf("%+v: %v", test.findings, got)
		}
	}
}

// wantCheck checks that a failed check says each of the words and a way out, and that a good one has no need of it.
func wantCheck(t *testing.T, check hypervisor.Check, ok bool, words ...string) {
	t.Helper()
	if check.OK != ok || (check.Remedy == "") != ok {
		t.Errorf("got %+v", check)
	}
	for _, word := range words {
		if !strings.Contains(check.Detail+check.Remedy, word) {
			t.Errorf("%+v does not say %q", check, word)
		}
	}
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCheckFile(t *testing.T) {
	dir := t.TempDir()
	file, none := write(t, filepath.Join(dir, "vmlinux"), ""), filepath.Join(dir, "none")
	wantCheck(t, checkFile("kernel", file), true, file)
	wantCheck(t, checkFile("kernel", none), false, none, "make install", `"kernel"`)
	wantCheck(t, checkFile("image", dir), false, dir, "not a regular file", `"image"`)
}

// TestCheckTools looks for the programs of guests. It is no failure if one is not there.
func TestCheckTools(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"limpet-images", "mke2fs", "busybox"} {
		if check := checkTools(dir); !check.OK || !strings.Contains(check.Detail, name) || !strings.Contains(check.Remedy, "make install") {
			t.Errorf("without %s: %+v", name, check)
		}
		if err := os.Chmod(write(t, filepath.Join(dir, name), ""), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	wantCheck(t, checkTools(dir), true, dir)
}

func TestCheckStateDir(t *testing.T) {
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "file"), "")
	for _, test := range []struct {
		path string
		ok   bool
		says []string
	}{
		{dir, true, []string{dir}},
		{filepath.Join(dir, "to", "be", "made"), true, []string{dir}},
		{file, false, []string{file, "state_dir"}},
		{filepath.Join(file, "below"), false, []string{file, "state_dir"}},
	} {
		wantCheck(t, checkStateDir(test.path), test.ok, test.says...)
	}
	for _, path := range []string{dir, filepath.Join(dir, "to", "be", "made")} {
		if left, err := filepath.Glob(filepath.Join(path, "doctor-*")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

func TestCheckConfig(t *testing.T) {
	dir := t.TempDir()
	good := write(t, filepath.Join(dir, "good.toml"), "[vm]\nvcpus = 3\n")
	bad := write(t, filepath.Join(dir, "bad.toml"), "[vm]\nvcpsu = 2\n")
	settings, check := checkConfig(good)
	wantCheck(t, check, true, good)
	if settings.VM.VCPUs != 3 {
		t.Errorf("got %+v", settings)
	}
	_, check = checkConfig(bad)
	wantCheck(t, check, false, bad, "vm.vcpsu", "limpet config")
	_, check = checkConfig(filepath.Join(dir, "none.toml"))
	wantCheck(t, check, false, "none.toml", "limpet config")
}

// TestCheckShim looks for the shim in PATH. It is no failure if it is not there.
func TestCheckShim(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if check := checkShim(); !check.OK || !strings.Contains(check.Remedy, "make install") {
		t.Errorf("without a shim: %+v", check)
	}
	path := write(t, filepath.Join(dir, shimName), "")
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	wantCheck(t, checkShim(), true, path)
}

// TestExamineFails has a configuration that cannot be read, then one whose parts are missing: each is found, and nothing is booted.
func TestExamineFails(t *testing.T) {
	dir := t.TempDir()
	missing := write(t, filepath.Join(dir, "missing.toml"), `
state_dir = "`+filepath.Join(dir, "state")+`"
kernel = "/nowhere/vmlinux"
image = "/nowhere/initramfs"
[template]
dir = "`+filepath.Join(dir, "templates")+`"
[hypervisor]
path = "/nowhere/qemu"
accelerator = "tcg"
[virtiofs]
daemon = "/nowhere/virtiofsd"
[vsock]
backend = "daemon"
daemon = "/nowhere/vsock"
`)
	for path, want := range map[string][]string{
		filepath.Join(dir, "none.toml"): {"configuration"},
		missing:                         {"qemu", "virtiofsd", "vsock", "kernel", "image"},
	} {
		var reported []Finding
		findings := Examine(t.Context(), path, func(finding Finding) { reported = append(reported, finding) })
		if !reflect.DeepEqual(reported, findings) {
			t.Errorf("reported %+v, returned %+v", reported, findings)
		}
		var failed []string
		for _, finding := range findings {
			if !finding.OK {
				failed = append(failed, finding.Name)
			}
			if finding.Name == "boot" {
				t.Errorf("booted: %+v", finding)
			}
		}
		if !slices.Equal(failed, want) {
			t.Errorf("failed: %v, want %v", failed, want)
		}
	}
}

func TestCheckEgress(t *testing.T) {
	wantCheck(t, checkEgress(true, func() error { return nil }), true)
	broken := func() error { return errors.New("no dup") }
	wantCheck(t, checkEgress(true, broken), false, "no dup", "nft_dup_netdev")
	if check := checkEgress(false, broken); !check.OK || check.Remedy == "" {
		t.Errorf("where nobody has a policy: %+v", check)
	}
}

func TestJudgeTemplates(t *testing.T) {
	of := func(states ...runtime.TemplateState) (templates []runtime.TemplateInfo) {
		for _, state := range states {
			templates = append(templates, runtime.TemplateInfo{Template: template.Template{ID: "of-" + string(state)}, State: state})
		}
		return templates
	}
	const current, usable, stale = runtime.TemplateCurrent, runtime.TemplateUsable, runtime.TemplateStale
	for _, test := range []struct {
		room          uint64
		templates     []runtime.TemplateInfo
		says, remedy  string
		without, name string
	}{
		{1 << 30, nil, "the first sandbox makes it", "", "", "none"},
		{1 << 30, of(usable), "the first sandbox makes it", "", "", "another's"},
		{1 << 30, of(usable, current), "clones of of-current", "", "", "the one"},
		{0, of(current), "clones of of-current", "", "", "the one on a full disk"},
		{templateRoom - 1, of(usable), "too little", "64MiB", "makes it", "full disk"},
		{1 << 30, of(stale, current, stale), "clones of of-current", "removes 2", "", "stale ones"},
	} {
		check := judgeTemplates("/dir", test.room, test.templates)
		if !check.OK || !strings.Contains(check.Detail, test.says) || !strings.Contains(check.Detail, "/dir") ||
			!strings.Contains(check.Remedy, test.remedy) || test.remedy == "" && check.Remedy != "" ||
			test.without != "" && strings.Contains(check.Detail, test.without) {
			t.Errorf("%s: %+v", test.name, check)
		}
	}
}

// TestCheckTemplates looks at directories that can be used and such that cannot. None is a failure.
func TestCheckTemplates(t *testing.T) {
	open := t.TempDir()
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	file := write(t, filepath.Join(t.TempDir(), "file"), "")
	for _, test := range []struct {
		settings config.Template
		says     string
		remedy   bool
	}{
		{config.Template{Enabled: true, Dir: filepath.Join(t.TempDir(), "to", "be", "made")}, "the first sandbox makes it", false},
		{config.Template{Enabled: false, Dir: open}, "off", false},
		{config.Template{Enabled: true, Dir: open}, "every sandbox boots", true},
		{config.Template{Enabled: true, Dir: file}, "every sandbox boots", true},
		{config.Template{Enabled: true, Dir: filepath.Join(file, "below")}, "every sandbox boots", true},
	} {
		settings := config.Default()
		settings.Template = test.settings
		check := checkTemplates(settings)
		if !check.OK || !strings.Contains(check.Detail, test.says) || (check.Remedy != "") != test.remedy {
			t.Errorf("%+v: %+v", test.settings, check)
		}
	}
}
