package runtime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/anchor"
)

// podNetwork makes a network namespace with an interface, and returns its path.
func podNetwork(t *testing.T) string {
	t.Helper()
	holder, err := anchor.Start(t.Context(), anchor.Options{Rootfs: "/", NewNetNS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := holder.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	path := fmt.Sprintf("/proc/%d/ns/net", holder.PID())
	inNetwork(t, path, "ip link add eth0 address 02:00:00:00:00:07 type veth peer name peer && ip address add 10.4.0.2/24 dev eth0 && "+
		"ip link set eth0 up && ip link set lo up && ip link show eth0")
	return path
}

// inNetwork runs shell commands in a network namespace.
func inNetwork(t *testing.T, path, script string) string {
	t.Helper()
	output, err := exec.Command("nsenter", "--net="+path, "sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, output)
	}
	return string(output)
}

// joined is a bundle whose container joins a network namespace.
func joined(path string) func(*specs.Spec) {
	return func(spec *specs.Spec) {
		spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
		for i := range spec.Linux.Namespaces {
			if spec.Linux.Namespaces[i].Type == specs.NetworkNamespace {
				spec.Linux.Namespaces[i].Path = path
			}
		}
	}
}

const redirected = "tc qdisc show dev eth0 ingress"

// askPort connects to a port of the namespace's loopback and returns what is said there.
func askPort(path, address string, port int) string {
	script := fmt.Sprintf("cat < /dev/tcp/%s/%d", address, port)
	said, err := exec.Command("nsenter", "--net="+path, "bash", "-c", script).CombinedOutput()
	return fmt.Sprint(string(said), err)
}

// TestNetwork starts two containers of a sandbox. The first brings the network; when it is deleted, nothing of limpet is left there.
func TestNetwork(t *testing.T) {
	w := newTestSandbox(t)
	var plugged []hypervisor.NIC
	w.fakeMachine.plug = func(device hypervisor.Device) error {
		plugged = append(plugged, device.(hypervisor.NIC))
		return nil
	}
	path := podNetwork(t)
	w.bundle = writeBundle(t, joined(path))
	first := w.run(t, IO{})
	second, err := w.CreateContainer(t.Context(), ContainerOptions{ID: "c2", Bundle: writeBundle(t, joined(path))})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(plugged) != 1 || !reflect.DeepEqual(plugged[0].MAC, net.HardwareAddr{2, 0, 0, 0, 0, 7}) {
		t.Errorf("plugged %+v", plugged)
	}
	want := []protocol.Network{{
		Interfaces: []protocol.Interface{{
			Name: "eth0", MAC: "02:00:00:00:00:07", MTU: 1500, Addresses: []netip.Prefix{netip.MustParsePrefix("10.4.0.2/24")},
		}},
		Sysctls: []protocol.Pair{{Name: "net.ipv4.ip_forward", Value: "1"}},
	}}
	told := got[protocol.Network](w.fakeGuest)
	for i := range told {
		told[i].Routes = nil // the kernel's own
	}
	if !reflect.DeepEqual(told, want) {
		t.Errorf("the guest was told %+v", told)
	}
	if shown := inNetwork(t, path, redirected); !strings.Contains(shown, "ingress") {
		t.Error("the interface's traffic is not redirected")
	}
	for _, address := range []string{"127.0.0.1", "::1"} {
		if said := askPort(path, address, 8080); said != "port 8080<nil>" {
			t.Errorf("%s: %s", address, said)
		}
	}
	for _, container := range []*Container{second, first} {
		w.exit(container.Init(), 0)
		waitExit(t, container.Init())
		if _, err := container.Delete(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if shown := inNetwork(t, path, redirected); shown != "" {
		t.Errorf("left: %s", shown)
	}
	if said := askPort(path, "127.0.0.1", 8080); !strings.Contains(said, "Connection refused") {
		t.Errorf("left: %s", said)
	}
}

// TestNetworkFails cannot start a container whose interface has no place in the machine; what was begun is undone.
func TestNetworkFails(t *testing.T) {
	w := newTestSandbox(t)
	w.fakeMachine.plug = func(hypervisor.Device) error { return errors.New("no free port") }
	path := podNetwork(t)
	w.bundle = writeBundle(t, joined(path))
	container := w.create(t, IO{})
	err := container.Init().Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "interface eth0: no free port") {
		t.Errorf("started: %v", err)
	}
	if shown := inNetwork(t, path, redirected+"; ip link show"); strings.Contains(shown, "ingress") || strings.Contains(shown, "limpet") {
		t.Errorf("left: %s", shown)
	}
	if _, err := container.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestNetworkOfHost gives a container that asks for the host's network a card without a tap, and its ports to the host, whose own
// network is left alone.
func TestNetworkOfHost(t *testing.T) {
	w := newTestSandbox(t)
	var plugged []hypervisor.NIC
	w.fakeMachine.plug = func(device hypervisor.Device) error {
		plugged = append(plugged, device.(hypervisor.NIC))
		return nil
	}
	const own = "/proc/self/ns/net"
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	w.fakeGuest.listening = uint16(port)
	w.bundle = writeBundle(t, joined(own))
	container := w.run(t, IO{})
	if told := got[protocol.Network](w.fakeGuest); len(told) != 1 || len(told[0].Interfaces) != 1 {
		t.Errorf("the guest was told %+v", told)
	}
	if len(plugged) != 1 || plugged[0].Tap != nil || !plugged[0].Subnet.IsValid() {
		t.Errorf("plugged %+v", plugged)
	}
	for want, said := fmt.Sprintf("port %d<nil>", port), ""; said != want; { // the guest is heard a moment later
		if said = askPort(own, "127.0.0.1", port); said != want && !strings.Contains(said, "Connection refused") {
			t.Fatal(said)
		}
	}
	left, err := readRecord(w.dir.path)
	if err != nil || left.Containers[container.id].Network != nil {
		t.Errorf("recorded: %+v, %v", left, err)
	}
	w.exit(container.Init(), 0)
	waitExit(t, container.Init())
	if _, err := container.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if said := askPort(own, "127.0.0.1", port); !strings.Contains(said, "Connection refused") {
		t.Errorf("left: %s", said)
	}
}

// TestNetworkCleanup finds what a killed shim left by the record alone.
func TestNetworkCleanup(t *testing.T) {
	w := newTestSandbox(t)
	path := podNetwork(t)
	w.bundle = writeBundle(t, joined(path))
	container := w.run(t, IO{})
	left, err := readRecord(w.dir.path)
	if err != nil {
		t.Fatal(err)
	}
	record := *left.Containers[container.id].Network
	stranger := record
	stranger.ID = "4:1"
	gone := record
	gone.Path = t.TempDir() + "/gone"
	for _, other := range []networkRecord{stranger, gone} {
		if err := other.cleanup(); err != nil {
			t.Error(err)
		}
	}
	if shown := inNetwork(t, path, redirected); !strings.Contains(shown, "ingress") {
		t.Error("another namespace's record was acted on")
	}
	if err := record.cleanup(); err != nil {
		t.Error(err)
	}
	if shown := inNetwork(t, path, redirected); shown != "" {
		t.Errorf("left: %s", shown)
	}
	if said := askPort(path, "127.0.0.1", 8080); !strings.Contains(said, "Connection refused") {
		t.Errorf("left: %s", said)
	}
}
