package runtime

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/miekg/dns"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/network"
	"github.com/limpet-run/limpet/runtime/oci"
)

// newRestricted makes a sandbox with an egress policy. Its name server is one that nobody is.
func newRestricted(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	options := w.options(t)
	options.Config.Egress = config.Egress{Restrict: true, Hosts: []string{"allowed.test"}, CIDRs: []string{"198.51.100.0/24"}}
	sandbox, err := newSandbox(t.Context(), options, w.platform)
	if err != nil {
		t.Fatal(err)
	}
	w.Sandbox = sandbox
	t.Cleanup(func() {
		if err := sandbox.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return w
}

// gateThere tells whether there is a gate in a network namespace: one can be told of an address then.
func gateThere(t *testing.T, path string, card network.Card) bool {
	t.Helper()
	namespace, err := network.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer namespace.Close()
	err = namespace.Admit([]network.Card{card}, []netip.Addr{netip.MustParseAddr("192.0.2.200")})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		t.Fatal(err)
	}
	return err == nil
}

// TestEgress has the guest's names resolved by the host, and a gate before the network of the container.
func TestEgress(t *testing.T) {
	w := newRestricted(t)
	path := podNetwork(t)
	own := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(own, []byte("nameserver 192.0.2.53\nsearch a.test\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.bundle = writeBundle(t, func(spec *specs.Spec) {
		joined(path)(spec)
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: resolvConf, Type: "bind", Source: own, Options: []string{"rbind", "ro"}})
	})
	if err := os.MkdirAll(filepath.Join(w.bundle, "rootfs/etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	container := w.run(t, IO{})
	told := got[protocol.Resolver](w.fakeGuest)
	if len(told) != 1 || told[0].Port != protocol.DNSPort {
		t.Fatalf("the guest was told %+v", told)
	}
	left, err := readRecord(w.dir.path)
	if err != nil {
		t.Fatal(err)
	}
	record := *left.Containers[container.id].Network
	card := record.Cards[0]
	if card.Gate == nil || !gateThere(t, path, card) {
		t.Errorf("there is no gate for %+v", card)
	}
	if text, err := os.ReadFile(filepath.Join(w.dir.path, resolvDir, container.id)); string(text) != "nameserver 127.0.0.1\nsearch a.test\n" {
		t.Errorf("its resolv.conf says %q, %v", text, err)
	}
	for range protocol.MaxResolverConns { // strangers take no place
		stranger, err := w.fakeGuest.dialHost(told[0].Port)
		if err != nil {
			t.Fatal(err)
		}
		defer stranger.Close()
	}
	w.expectRefused(t, told[0], "other.test.")
	if err := record.cleanup(); err != nil { // as after a killed shim
		t.Error(err)
	}
	if gateThere(t, path, card) {
		t.Error("the gate is left by cleanup")
	}
	w.exit(container.Init(), 0)
	waitExit(t, container.Init())
	if _, err := container.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(filepath.Join(w.dir.path, resolvDir)); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if err := w.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.fakeGuest.dialHost(told[0].Port); err == nil {
		t.Error("names are still resolved")
	}
}

// expectRefused asks for a name as the guest does.
func (w *world) expectRefused(t *testing.T, at protocol.Resolver, name string) {
	t.Helper()
	conn, err := w.fakeGuest.dialHost(at.Port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	question, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(append(at.Token[:], protocol.ResolverStream)); err != nil {
		t.Fatal(err)
	}
	if err := protocol.WriteDNS(conn, question); err != nil {
		t.Fatal(err)
	}
	packed, err := protocol.ReadDNS(conn, protocol.MaxAnswer)
	if err != nil {
		t.Fatal(err)
	}
	answer := new(dns.Msg)
	if err := answer.Unpack(packed); err != nil || answer.Rcode != dns.RcodeNameError {
		t.Errorf("%s: %v, %v", name, answer, err)
	}
}

// TestEgressOfHostNetwork cannot be: the host's network has no gate.
func TestEgressOfHostNetwork(t *testing.T) {
	w := newRestricted(t)
	w.bundle = writeBundle(t, joined("/proc/self/ns/net"))
	if err := os.MkdirAll(filepath.Join(w.bundle, "rootfs/etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	container := w.create(t, IO{})
	if err := container.Init().Start(t.Context()); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "egress policy") {
		t.Errorf("started: %v", err)
	}
}

// TestPodEgress has a gate before the machine runs.
func TestPodEgress(t *testing.T) {
	w := newWorld(t)
	path := podNetwork(t)
	options := w.options(t)
	options.Pod = &oci.Pod{NetNS: path, Annotations: map[string]string{
		config.AnnotationEgressHosts: "allowed.test", config.AnnotationEgressCIDRs: "",
	}}
	sandbox, err := newSandbox(t.Context(), options, w.platform)
	if err != nil {
		t.Fatal(err)
	}
	left, err := readRecord(sandbox.dir.path)
	if err != nil {
		t.Fatal(err)
	}
	card := left.Pod.Network.Cards[0]
	if !gateThere(t, path, card) {
		t.Error("there is no gate")
	}
	if err := sandbox.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if gateThere(t, path, card) {
		t.Error("the gate is left")
	}
}
