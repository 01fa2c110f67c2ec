package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// The network of nerdctl's containers: a bridge in the run's network namespace, which is there after the first container of it.
const (
	Bridge   = "nerdctl0"
	Subnet4  = "10.88.0.0/24"
	Gateway4 = "10.88.0.1"
	Subnet6  = "fd88::/64"
	Gateway6 = "fd88::1"
)

// netns is the path of the run's network namespace.
func (d *Daemon) netns() string { return filepath.Join("/run/netns", d.Namespace) }

// leases is where CNI keeps the addresses that containers have.
func (d *Daemon) leases() string { return filepath.Join(d.Dir, "n", "bridge") }

// Command prepares a command in the run's network namespace. It is killed when ctx ends.
func (d *Daemon) Command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + d.netns()}, args...)...)
}

// makeNetwork makes the run's network namespace and describes the networks in it: nerdctl's, which pods have too, and two for pods that
// cannot be.
func (d *Daemon) makeNetwork() error {
	for _, args := range [][]string{
		{"netns", "add", d.Namespace},
		{"-n", d.Namespace, "link", "set", "lo", "up"},
	} {
		if err := Run(exec.Command("ip", args...)).Err(); err != nil {
			return err
		}
	}
	type object = map[string]any
	bridge := object{
		// No ipMasq: nobody is beyond the bridge, and the plugin leaves its rules for IPv6 behind.
		"type": "bridge", "bridge": Bridge, "isGateway": true, "hairpinMode": true,
		"ipam": object{
			"type": "host-local", "dataDir": filepath.Dir(d.leases()),
			"ranges": [][]object{{{"subnet": Subnet4, "gateway": Gateway4}}, {{"subnet": Subnet6, "gateway": Gateway6}}},
			"routes": []object{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}},
		},
	}
	if err := writeNetwork(d.networks(), object{
		"nerdctlID": "limpet", "nerdctlLabels": object{"nerdctl/default-network": "true"},
		"plugins": []object{
			bridge,
			{"type": "portmap", "capabilities": object{"portMappings": true}},
			{"type": "firewall"},
			{"type": "tuning"},
		},
	}); err != nil {
		return err
	}
	if err := writeNetwork(d.brokenNetworks(), object{
		"plugins": []object{bridge, {"type": "tuning", "sysctl": object{"net.no.such.key": "1"}}},
	}); err != nil {
		return err
	}
	if err := writeNetwork(d.crowdedNetworks(), object{"plugins": []object{{"type": crowdPlugin}, bridge}}); err != nil {
		return err
	}
	if err := os.Mkdir(d.ownPlugins(), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.ownPlugins(), crowdPlugin), []byte(crowdScript), 0o700)
}

const (
	// CrowdedInterfaces is how many interfaces more than the bridge's a pod has with HandlerCrowdedNetwork.
	CrowdedInterfaces = 30
	// crowdPlugin is the name of the CNI plugin that makes them; they go with the network namespace.
	crowdPlugin = "crowd"
)

var crowdScript = fmt.Sprintf(`#!/bin/sh -e
[ $CNI_COMMAND = ADD ] || exit 0
for i in $(seq %d); do nsenter --net=$CNI_NETNS ip link add crowd$i up type veth peer name peer$i; done
echo '{"cniVersion": "1.0.0"}'
`, CrowdedInterfaces)

// writeNetwork makes a directory with the configuration of a network. The leases of all are those of one.
func writeNetwork(dir string, list map[string]any) error {
	list["cniVersion"], list["name"] = "1.0.0", "bridge"
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "bridge.conflist"), text, 0o600)
}

// networks is the directory with CNI's configuration.
func (d *Daemon) networks() string { return filepath.Join(d.Dir, "cni") }

// brokenNetworks is the same of a network whose last plugin always fails.
func (d *Daemon) brokenNetworks() string { return filepath.Join(d.Dir, "cni-broken") }

// crowdedNetworks is the same of a network with many interfaces.
func (d *Daemon) crowdedNetworks() string { return filepath.Join(d.Dir, "cni-crowded") }

// ownPlugins is the directory with CNI plugins of the harness itself.
func (d *Daemon) ownPlugins() string { return filepath.Join(d.Dir, "cni-bin") }

// removeNetwork removes the run's network namespace, with all that is in it.
func (d *Daemon) removeNetwork() error {
	if _, err := os.Lstat(d.netns()); err != nil {
		return nil
	}
	return Run(exec.Command("ip", "netns", "delete", d.Namespace)).Err()
}

// networkParts lists the interfaces in the run's network namespace but for bridges, and the rules of its packet filter that are
// made for single containers: CNI leaves the bridge and the chains for the next container.
func (d *Daemon) networkParts() ([]string, error) {
	links := Run(d.Command(context.Background(), "ip", "-o", "link", "show"))
	if links.Err() != nil {
		return nil, links.Err()
	}
	var lines []string
	for line := range strings.Lines(links.Stdout) {
		// Number: name[@peer]: ...
		name, _, _ := strings.Cut(strings.Fields(line)[1], "@")
		if name = strings.TrimSuffix(name, ":"); name != Bridge {
			lines = append(lines, "interface "+name)
		}
	}
	for _, program := range []string{"iptables-save", "ip6tables-save"} {
		rules := Run(d.Command(context.Background(), program))
		if rules.Err() != nil {
			return nil, rules.Err()
		}
		for line := range strings.Lines(rules.Stdout) {
			if strings.HasPrefix(line, "-A") && (strings.Contains(line, d.Namespace) || podID.MatchString(line)) {
				lines = append(lines, program+" "+strings.TrimSpace(line))
			}
		}
	}
	for _, list := range []func() ([]string, error){d.takenAddresses, d.cniResults} {
		more, err := list()
		if err != nil {
			return nil, err
		}
		lines = append(lines, more...)
	}
	return lines, nil
}

// takenAddresses lists the addresses that CNI takes for containers' own.
func (d *Daemon) takenAddresses() ([]string, error) {
	entries, err := os.ReadDir(d.leases())
	if errors.Is(err, fs.ErrNotExist) { // there was no container yet
		return nil, nil
	}
	var lines []string
	for _, entry := range entries {
		if _, err := netip.ParseAddr(entry.Name()); err == nil { // others are of the plugin itself
			lines = append(lines, "address "+entry.Name())
		}
	}
	return lines, err
}

// cniResults lists what CNI remembers of the run's containers, in a directory that all of the host's CNI shares.
func (d *Daemon) cniResults() ([]string, error) {
	const dir = "/var/lib/cni"
	var lines []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return nil
		}
		if strings.Contains(filepath.Base(path), d.Namespace) || podID.MatchString(path) && d.isOwnResult(path) {
			lines = append(lines, "entry "+path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for results of CNI: %w", err)
	}
	return lines, nil
}

// podID matches the ids of pods, which do not tell whose they are.
var podID = regexp.MustCompile(`\b[0-9a-f]{64}\b`)

// isOwnResult reports whether what CNI remembers in a file is of a pod of the run: it mentions the pod's network namespace.
func (d *Daemon) isOwnResult(path string) bool {
	text, err := os.ReadFile(path)
	return err == nil && mentions(string(text), d.Dir) // one that has gone meanwhile is nobody's
}

// Within calls f on a thread in the run's network namespace, which is the host to its containers.
func (d *Daemon) Within(f func() error) error { return within(d.netns(), f) }

// within calls f on a thread in a network namespace.
func within(netns string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		file, err := os.Open(netns)
		if err != nil {
			done <- err
			return
		}
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter %s: %w", netns, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// ListenIn listens at an address of the network namespace at a path.
func ListenIn(netns, address string) (listener net.Listener, err error) {
	err = within(netns, func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	return listener, err
}

// ListenPacketIn receives datagrams at an address of the network namespace at a path.
func ListenPacketIn(netns, address string) (conn net.PacketConn, err error) {
	err = within(netns, func() (err error) {
		conn, err = net.ListenPacket("udp", address)
		return err
	})
	return conn, err
}

// Dial connects to a literal address from the run's network namespace.
func (d *Daemon) Dial(ctx context.Context, address string) (net.Conn, error) {
	return DialIn(ctx, d.netns(), address)
}

// DialIn connects to a literal address from the network namespace at a path.
func DialIn(ctx context.Context, netns, address string) (conn net.Conn, err error) {
	err = within(netns, func() (err error) { // a socket is of the namespace of the thread that makes it
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}
