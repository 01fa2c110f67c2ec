package container

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
)

func TestCheckID(t *testing.T) {
	for id, want := range map[string]bool{
		"a": true, "A-b_c.9": true, strings.Repeat("x", maxID): true,
		"": false, ".": false, "..": false, "a..b": false, "a/b": false, "a b": false, "é": false, "a\x00": false,
		strings.Repeat("x", maxID+1): false,
	} {
		if err := checkID(id); (err == nil) != want || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("checkID(%.20q) = %v", id, err)
		}
	}
}

func TestBelow(t *testing.T) {
	for rel, want := range map[string]string{
		"c/rootfs": "/share/c/rootfs", "/c/rootfs": "/share/c/rootfs", "c//./rootfs/": "/share/c/rootfs", "c/../d": "/share/d",
		"": "", "/": "", ".": "", "..": "", "../c": "", "c/../../d": "", "c\x00d": "", strings.Repeat("x", maxPath+1): "",
	} {
		got, err := below("/share", rel)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("below(%.20q) = %q, %v; want %q", rel, got, err, want)
		}
	}
}

func TestLocalize(t *testing.T) {
	raw := `{"ociVersion": "1.0.2", "root": {"path": "x", "readonly": true}, "process": {"args": ["a"], "new": 1},
		"linux": {"cgroupsPath": "/x", "namespaces": [{"type": "ipc", "path": "pod"}], "new": {"a": [1]}}, "new": null}`
	namespaces := []specs.LinuxNamespace{{Type: "ipc", Path: "/proc/7/ns/ipc"}, {Type: "mount"}}
	got, err := localize(json.RawMessage(raw), "/share/c", "/limpet-c", namespaces, specs.User{UID: 5, GID: 6},
		&protocol.Size{Cols: 80, Rows: 24})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"ociVersion": "1.0.2", "root": {"path": "/share/c", "readonly": true},
		"process": {"args": ["a"], "new": 1, "user": {"uid": 5, "gid": 6}, "consoleSize": {"width": 80, "height": 24}},
		"linux": {"cgroupsPath": "/limpet-c", "namespaces": [{"type": "ipc", "path": "/proc/7/ns/ipc"}, {"type": "mount"}],
			"new": {"a": [1]}}, "new": null}`
	var g, w any
	if json.Unmarshal(got, &g) != nil || json.Unmarshal([]byte(want), &w) != nil || !reflect.DeepEqual(g, w) {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, bad := range []string{`[]`, `{"root": 1}`, `{"linux": "x"}`} {
		if _, err := localize(json.RawMessage(bad), "/r", "/c", nil, specs.User{}, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("localize(%s): %v", bad, err)
		}
	}
}

func TestParseSpec(t *testing.T) {
	for _, bad := range []string{
		`null`, `{}`, `x`, `{"process": {"args": ["a"], "cwd": "/"}}`, `{"linux": {}, "process": {"args": [], "cwd": "/"}}`,
		`{"linux": {}, "process": {"args": [""], "cwd": "/"}}`, `{"linux": {}, "process": {"args": ["a"], "cwd": "relative"}}`,
	} {
		if _, err := parseSpec(json.RawMessage(bad)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("parseSpec(%s): %v", bad, err)
		}
	}
}

func TestHomeOf(t *testing.T) {
	for passwd, want := range map[string]string{
		"root:x:0:0:root:/root:/bin/sh\n": "/root", "a:x:1:1::/a:/x\nr:x:0:0::/home/r:/x\n": "/home/r",
		"": "/", "root:x:0\n": "/", "root:x:0:0:root:relative:/bin/sh\n": "/",
		strings.Repeat("x", maxPasswd) + "\nroot:x:0:0:root:/root:/bin/sh\n": "/",
	} {
		if got := homeOf(strings.NewReader(passwd), 0); got != want {
			t.Errorf("homeOf(%.30q) = %q, want %q", passwd, got, want)
		}
	}
}

func TestCapabilities(t *testing.T) {
	if len(capabilityNames) != 41 || capabilityNames[19] != "CAP_SYS_PTRACE" || capabilityNames[40] != "CAP_CHECKPOINT_RESTORE" {
		t.Errorf("%d names, %s", len(capabilityNames), capabilityNames[19])
	}
	if set := capabilitiesOf([]string{"CAP_CHOWN", "CAP_NEW", "CAP_SETPCAP"}); set != 1<<0|1<<8 {
		t.Errorf("%#x", set)
	}
}
