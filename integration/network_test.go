package integration

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/integration/harness"
)

// ip runs ip(8) with the arguments of a line.
func (s *scope) ip(format string, arguments ...any) string {
	s.Helper()
	result := harness.Run(exec.CommandContext(s.ctx, "ip", strings.Fields(fmt.Sprintf(format, arguments...))...))
	s.must(result.Err())
	return result.Stdout
}

// netns makes a network namespace of the run, removed with the test, and returns its name.
func (s *scope) netns(name string) string {
	s.Helper()
	name = daemon.Namespace + "-" + name
	s.ip("netns add %s", name)
	s.Cleanup(func() {
		if err := harness.Run(exec.Command("ip", "netns", "delete", name)).Err(); err != nil {
			s.Error(err)
		}
	})
	return name
}

// wire joins two network namespaces of the run as hosts 1 (world) and 2 (pod) of 10.9.0.0/24 and fd09::/64.
func (s *scope) wire(pod, world string) {
	s.Helper()
	s.ip("-n %s link add eth0 mtu 1400 type veth peer name eth0 mtu 1400 netns %s", pod, world)
	for host, netns := range map[int]string{1: world, 2: pod} {
		s.ip("-n %s link set lo up", netns)
		s.ip("-n %s link set eth0 up", netns)
		s.ip("-n %s address add 10.9.0.%d/24 dev eth0", netns, host)
		s.ip("-n %s address add fd09::%d/64 dev eth0 nodad", netns, host)
	}
	for _, gateway := range []string{"10.9.0.1", "fd09::1"} {
		s.ip("-n %s route add default via %s", pod, gateway)
	}
}

// within runs a command in a network namespace of the run.
func (s *scope) within(netns string, command ...string) harness.Result {
	return harness.Run(exec.CommandContext(s.ctx, "ip", append([]string{"netns", "exec", netns}, command...)...))
}

// TestNetwork gives a container the network that its namespace has: names, addresses, routes, neighbours, MTU.
func TestNetwork(t *testing.T) {
	s := begin(t)
	pod, world := s.netns("pod"), s.netns("world")
	s.wire(pod, world)
	s.ip("-n %s neighbour add 10.9.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent", pod)
	c := s.sleeper("--with-ns", "network:/run/netns/"+pod)
	for _, test := range []struct{ command, want string }{
		{"cat /sys/class/net/eth0/mtu", "1400"},
		{"ls /sys/class/net", "eth0 lo"},
		{"ip -4 address show eth0", "inet 10.9.0.2/24"},
		{"ip -6 address show eth0", "inet6 fd09::2/64"},
		{"ip route", "default via 10.9.0.1 dev eth0"},
		{"ip route", "10.9.0.0/24 dev eth0"},
		{"ip -6 route", "default via fd09::1 dev eth0"},
		{"ip neigh", "10.9.0.77 dev eth0 lladdr 02:00:00:00:00:77"},
		{"ping -c 1 -W 10 10.9.0.1", "1 packets received"},
		{"ping -c 1 -W 10 fd09::1", "1 packets received"},
	} {
		result := c.exec(nil, "sh", "-c", test.command)
		if got := strings.Join(strings.Fields(result.Stdout), " "); result.Err() != nil || !strings.Contains(got, test.want) {
			t.Errorf("%s: %v; it shows %q, want %q", test.command, result.Err(), got, test.want)
		}
	}
	for _, address := range []string{"10.9.0.2", "fd09::2"} {
		if result := s.within(world, "busybox", "ping", "-c", "1", "-W", "10", address); result.Err() != nil {
			t.Errorf("ping the container: %v: %s", result.Err(), result.Stdout)
		}
	}
}

// TestNetworkAfterCreate connects a container between the creation and the start of its task, by the task's pid.
func TestNetworkAfterCreate(t *testing.T) {
	s := begin(t)
	world := s.netns("world")
	c := s.create(nil, "sleep", "1000000")
	c.createTask(&tasks.CreateTaskRequest{})
	task, err := daemon.Tasks.Get(daemon.Context(s.ctx), &tasks.GetRequest{ContainerID: c.id})
	s.must(err)
	pod := daemon.Namespace + "-created"
	s.ip("netns attach %s %d", pod, task.Process.Pid)
	s.Cleanup(func() {
		if err := harness.Run(exec.Command("ip", "netns", "delete", pod)).Err(); err != nil {
			t.Error(err)
		}
	})
	s.wire(pod, world)
	c.startTask("")
	if result := s.within(world, "busybox", "ping", "-c", "1", "-W", "10", "10.9.0.2"); result.Err() != nil {
		t.Errorf("ping the container: %v: %s", result.Err(), result.Stdout)
	}
}

// TestNetworkOfKilledShim kills a shim: what it attached to a network namespace of others is gone.
func TestNetworkOfKilledShim(t *testing.T) {
	s := limpetOnly(t)
	pod, world := s.netns("pod"), s.netns("world")
	s.wire(pod, world)
	c := s.sleeper("--with-ns", "network:/run/netns/"+pod)
	const filters = "tc qdisc show dev eth0 ingress; ip link show type tun"
	connect := func() error {
		conn, err := harness.DialIn(s.ctx, "/run/netns/"+pod, "127.0.0.1:8080")
		if err == nil {
			conn.Close()
		}
		return err
	}
	if err := connect(); err != nil && !errors.Is(err, unix.ECONNRESET) { // nobody listens in the container
		t.Errorf("a connection to localhost: %v", err)
	}
	if shown := s.within(pod, "sh", "-c", filters); !strings.Contains(shown.Stdout, "ingress") || !strings.Contains(shown.Stdout, "limpet") {
		t.Errorf("the traffic is not redirected: %q, %v", shown.Stdout, shown.Err())
	}
	events := s.record()
	s.kill9(shim)
	s.must(events.Await(s.ctx, c.id, "exit"))
	if shown := s.within(pod, "sh", "-c", filters); shown.Stdout != "" || shown.Err() != nil {
		t.Errorf("left: %q, %v", shown.Stdout, shown.Err())
	}
	if err := connect(); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("left: a connection to localhost: %v", err)
	}
}

// TestNetworkOfSeveral gives a container two interfaces, and does not start one that has seven: a machine has room for six.
func TestNetworkOfSeveral(t *testing.T) {
	s := limpetOnly(t)
	pod, world := s.netns("pod"), s.netns("world")
	s.wire(pod, world)
	more := func(name, network string) {
		s.ip("-n %s link add %s type veth peer name %s netns %s", pod, name, name, world)
		s.ip("-n %s link set %s up", world, name)
		s.ip("-n %s link set %s up", pod, name)
		s.ip("-n %s address add %s.1/24 dev %s", world, network, name)
		s.ip("-n %s address add %s.2/24 dev %s", pod, network, name)
	}
	netns := []string{"--with-ns", "network:/run/netns/" + pod}
	more("aux0", "10.7.0")
	got := s.output(netns, "sh", "-c",
		"ls /sys/class/net; for a in 10.9.0.1 10.7.0.1; do ping -c 1 -W 10 $a | grep -c '1 packets received'; done")
	if want := "aux0\neth0\nlo\n1\n1\n"; got != want {
		t.Errorf("the container wrote %q, want %q", got, want)
	}
	for i := range 5 {
		more(fmt.Sprint("more", i), fmt.Sprint("10.8.", i))
	}
	if result := s.run(netns, "true"); result.Code == 0 || !strings.Contains(result.Stderr, "connect its network: give the VM interface") {
		t.Errorf("seven interfaces: %d, %s", result.Code, result.Stderr)
	}
}

// TestNoNetwork is a container whose namespace nobody connects: loopback is all it has, and works.
func TestNoNetwork(t *testing.T) {
	s := begin(t)
	got := s.output(nil, "sh", "-c", "ls /sys/class/net; ping -c 1 -W 10 127.0.0.1 | grep -c '1 packets received'")
	if want := "lo\n1\n"; got != want {
		t.Errorf("the container wrote %q, want %q", got, want)
	}
}
