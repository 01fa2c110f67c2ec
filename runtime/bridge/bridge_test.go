package bridge

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/runtime/config"
)

func TestPlan(t *testing.T) {
	settings := config.Default().Network
	settings.Bridge, settings.Subnets, settings.LeasesDir = "br0", []string{"10.9.0.1/24", "fd09::/64"}, "/run/leases"
	plan, err := Plan(settings, "0123", "/run/limpet/0123/netns")
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Plugins []struct {
			Type, Bridge string
			IPMasq       bool
			IPAM         struct {
				DataDir string
				Ranges  [][]struct{ Subnet string }
				Routes  []struct{ Dst string }
			}
		}
	}
	if err := json.Unmarshal(plan.List, &list); err != nil {
		t.Fatal(err)
	}
	bridge := list.Plugins[0]
	if len(list.Plugins) != 2 || bridge.Type != "bridge" || bridge.Bridge != "br0" || !bridge.IPMasq || bridge.IPAM.DataDir != "/run/leases" {
		t.Errorf("got %s", plan.List)
	}
	ipam := bridge.IPAM
	if ipam.Ranges[0][0].Subnet != "10.9.0.0/24" || ipam.Ranges[1][0].Subnet != "fd09::/64" ||
		ipam.Routes[0].Dst != "0.0.0.0/0" || ipam.Routes[1].Dst != "::/0" {
		t.Errorf("got %s", plan.List)
	}
}

// newPlan plans a network of plugins that note what they are asked for, in the file whose path it returns; firewall is the text of the
// one that comes last.
func newPlan(t *testing.T, firewall string) (Network, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	dir := t.TempDir()
	calls := filepath.Join(dir, "calls")
	const add = `[ $CNI_COMMAND != ADD ] || echo '{"cniVersion": "1.0.0"}'`
	for name, text := range map[string]string{"bridge": add, "firewall": firewall + add} {
		script := "#!/bin/sh\ncat > /dev/null\necho " + name + " $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME >> " + calls + "\n" + text
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	settings := config.Default().Network
	settings.PluginDirs, settings.LeasesDir = []string{dir}, filepath.Join(dir, "leases")
	plan, err := Plan(settings, "0123", filepath.Join(dir, "netns"))
	if err != nil {
		t.Fatal(err)
	}
	return plan, calls
}

func expectCalls(t *testing.T, path string, want ...string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(text)); got != strings.Join(want, "\n") {
		t.Errorf("plugins were asked for\n%s", got)
	}
}

func TestMakeAndRemove(t *testing.T) {
	plan, calls := newPlan(t, "")
	if err := plan.Make(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectCalls(t, calls, "bridge ADD 0123 eth0", "firewall ADD 0123 eth0")
	for range 2 {
		if err := plan.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	expectCalls(t, calls, "bridge ADD 0123 eth0", "firewall ADD 0123 eth0", "firewall DEL 0123 eth0", "bridge DEL 0123 eth0")
	if _, err := os.Lstat(plan.Path); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
}

// TestMakeFails takes back what the plugins before the failing one did.
func TestMakeFails(t *testing.T) {
	plan, calls := newPlan(t, `[ $CNI_COMMAND != ADD ] || exit 1; `)
	if err := plan.Make(t.Context()); err == nil || !strings.Contains(err.Error(), "network.plugin_dirs") {
		t.Errorf("got %v", err)
	}
	expectCalls(t, calls, "bridge ADD 0123 eth0", "firewall ADD 0123 eth0", "firewall DEL 0123 eth0", "bridge DEL 0123 eth0")
	if _, err := os.Lstat(plan.Path); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
}
