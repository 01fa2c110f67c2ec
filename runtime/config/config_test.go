package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// TestDefaultFile holds the structure and its documentation equal: every field has a key in default.toml and the reverse.
func TestDefaultFile(t *testing.T) {
	config := Default() // panics on a key without a field
	if err := config.validate(); err != nil {
		t.Fatal(err)
	}
	var keys map[string]any
	if err := toml.Unmarshal(DefaultFile, &keys); err != nil {
		t.Fatal(err)
	}
	checkKeys(t, "", reflect.TypeOf(config), keys)
}

func checkKeys(t *testing.T, prefix string, structure reflect.Type, keys map[string]any) {
	for field := range structure.Fields() {
		name := field.Tag.Get("toml")
		value, ok := keys[name]
		if !ok {
			t.Errorf("default.toml has no %s%s", prefix, name)
		}
		if field.Type.Kind() == reflect.Struct {
			checkKeys(t, prefix+name+".", field.Type, value.(map[string]any))
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	main := filepath.Join(dir, "config.toml")
	write(t, main, "kernel = '/a/vmlinux'\n[vm]\nvcpus = 6\n")
	write(t, filepath.Join(dir, "conf.d", "10-a.toml"), "[vm]\nvcpus = 3\nmemory_mib = 512\n")
	write(t, filepath.Join(dir, "conf.d", "20-b.toml"), "[vm]\nvcpus = 4\n[timeouts]\nboot = '1m'\n")
	write(t, filepath.Join(dir, "conf.d", "readme"), "not TOML")
	config, err := Load(main)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Kernel, want.VM, want.Timeouts.Boot = "/a/vmlinux", VM{VCPUs: 4, MemoryMiB: 512}, Duration(time.Minute)
	if !reflect.DeepEqual(config, want) {
		t.Errorf("got %+v, want %+v", config, want)
	}
}

func TestLoadMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a named file that is missing: %v", err)
	}
	config, err := load(path, false)
	if err != nil || !reflect.DeepEqual(config, Default()) {
		t.Errorf("the default file missing: %+v, %v", config, err)
	}
}

// TestLoadByEnvironment names the file in the environment; a name that is given wins.
func TestLoadByEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	t.Setenv(PathVariable, path)
	if _, err := Load(""); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a file that is missing: %v", err)
	}
	write(t, path, "[vm]\nvcpus = 3\n")
	if config, err := Load(""); err != nil || config.VM.VCPUs != 3 {
		t.Errorf("got %+v, %v", config, err)
	}
	other := filepath.Join(t.TempDir(), "other.toml")
	write(t, other, "[vm]\nvcpus = 5\n")
	if config, err := Load(other); err != nil || config.VM.VCPUs != 5 {
		t.Errorf("a file that is named: %+v, %v", config, err)
	}
}

func TestLoadErrors(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       []string
	}{
		{"unknown key", "[vm]\ncpus = 2\n", []string{"line 2", `unknown key "vm.cpus"`}},
		{"unknown table", "[qemu]\nx = 1\n", []string{`unknown key "qemu`}},
		{"wrong type", "[vm]\nvcpus = 'two'\n", []string{"line 2", `"vm.vcpus"`}},
		{"not TOML", "[vm\n", []string{"line 1"}},
		{"accelerator", "[hypervisor]\naccelerator = 'xen'\n", []string{"hypervisor.accelerator", `"xen"`, "auto, kvm, tcg"}},
		{"backend", "[vsock]\nbackend = ''\n", []string{"vsock.backend", `""`, "auto, kernel, daemon"}},
		{"memory", "[vm]\nmemory_mib = 64\n", []string{"vm.memory_mib", "64", "at least 96"}},
		{"no CPU", "[vm]\nvcpus = 0\n", []string{"vm.vcpus", "1 to 64"}},
		{"relative path", "kernel = 'vmlinux'\n", []string{`"kernel"`, `"vmlinux"`, "absolute"}},
		{"long state_dir", "state_dir = '/" + strings.Repeat("x", 60) + "'\n", []string{"state_dir", "56 bytes"}},
		{"small storage", "[storage]\nmib = 8\n", []string{"storage.mib", "8", "64 to"}},
		{"place of storage", "[storage]\ndir = 'here'\n", []string{"storage.dir", "here", "absolute"}},
		{"time span", "[timeouts]\nboot = 'soon'\n", []string{"timeouts.boot", "soon"}},
		{"no time", "[timeouts]\nboot = '0s'\n", []string{"timeouts.boot", "more than 0"}},
		{"egress host", "[egress]\nhosts = ['*']\n", []string{"egress", `"*"`}},
		{"egress range", "[egress]\ncidrs = ['10.0.0.0/33']\n", []string{"egress", "10.0.0.0/33"}},
		{"name server", "[egress]\nnameservers = ['ns.example.org']\n", []string{"egress.nameservers", "ns.example.org"}},
		{"bridge", "[network]\nbridge = 'much-too-long-a-name'\n", []string{"network.bridge", "15 bytes"}},
		{"no subnet", "[network]\nsubnets = []\n", []string{"network.subnets", "at least one"}},
		{"subnet", "[network]\nsubnets = ['10.0.0.1']\n", []string{"network.subnets", "10.0.0.1"}},
		{"plugins", "[network]\nplugin_dirs = ['bin']\n", []string{"network.plugin_dirs", "absolute"}},
		{"annotation", "allowed_annotations = ['io.limpet.kernel']\n", []string{"allowed_annotations", "io.limpet.kernel"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.toml")
			write(t, path, test.text)
			_, err := Load(path)
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("got %v", err)
			}
			for _, want := range append(test.want, path) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

func TestLoadBody(t *testing.T) {
	config, err := LoadBody([]byte("[vm]\nvcpus = 3\n"))
	if err != nil || config.VM.VCPUs != 3 || config.Kernel != Default().Kernel {
		t.Errorf("got %+v, %v", config, err)
	}
	if _, err := LoadBody([]byte("x = 1")); err == nil || !strings.Contains(err.Error(), "runtime options") {
		t.Errorf("got %v", err)
	}
}

func TestWithAnnotations(t *testing.T) {
	base := Default()
	locked := base
	locked.AllowedAnnotations = nil
	for _, test := range []struct {
		name        string
		config      Config
		annotations map[string]string
		want        VM
		fails       string
	}{
		{"none", base, nil, base.VM, ""},
		{"not ours", base, map[string]string{"io.kubernetes.cri.sandbox-id": "x"}, base.VM, ""},
		{"both", base, map[string]string{AnnotationVCPUs: "4", AnnotationMemory: "512"}, VM{VCPUs: 4, MemoryMiB: 512}, ""},
		{"not a number", base, map[string]string{AnnotationVCPUs: "many"}, VM{}, "whole number"},
		{"too small", base, map[string]string{AnnotationMemory: "16"}, VM{}, "at least 96"},
		{"unknown", base, map[string]string{"io.limpet.memroy": "512"}, VM{}, "not known"},
		{"not allowed", locked, map[string]string{AnnotationMemory: "512"}, VM{}, "allowed_annotations"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.config.WithAnnotations(test.annotations)
			if test.fails != "" {
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || got.VM != test.want {
				t.Errorf("got %+v, %v", got.VM, err)
			}
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestEmptyAllowList(t *testing.T) {
	config, err := LoadBody([]byte("allowed_annotations = []"))
	if err != nil || len(config.AllowedAnnotations) != 0 {
		t.Errorf("got %v, %v", config.AllowedAnnotations, err)
	}
}

// TestWithEgressAnnotations restricts egress by either, and replaces only what is named.
func TestWithEgressAnnotations(t *testing.T) {
	base := Default()
	base.Egress.CIDRs = []string{"192.0.2.0/24"}
	for _, test := range []struct {
		name        string
		annotations map[string]string
		want        Egress
	}{
		{"hosts", map[string]string{AnnotationEgressHosts: "a.test, *.b.test,"},
			Egress{Hosts: []string{"a.test", "*.b.test"}, CIDRs: base.Egress.CIDRs}},
		{"ranges", map[string]string{AnnotationEgressCIDRs: "10.0.0.0/8"}, Egress{Hosts: []string{}, CIDRs: []string{"10.0.0.0/8"}}},
		{"nothing", map[string]string{AnnotationEgressHosts: "", AnnotationEgressCIDRs: ""}, Egress{Hosts: []string{}, CIDRs: []string{}}},
	} {
		test.want.Restrict, test.want.NameServers = true, []string{}
		got, err := base.WithAnnotations(test.annotations)
		if err != nil || !reflect.DeepEqual(got.Egress, test.want) {
			t.Errorf("%s: got %+v, %v", test.name, got.Egress, err)
		}
	}
	if _, err := base.WithAnnotations(map[string]string{AnnotationEgressHosts: "a..b"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a name that is none: %v", err)
	}
}
