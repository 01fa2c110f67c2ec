package integration

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/limpet-run/limpet/integration/harness"
)

// containerConfig is the configuration of a container with the namespaces of its pod.
func (p pod) containerConfig(name string, command ...string) *cri.ContainerConfig {
	config := harness.ContainerConfig(name, command...)
	config.Linux.SecurityContext.NamespaceOptions = p.Config.Linux.SecurityContext.NamespaceOptions
	return config
}

// namespacesConfig is the configuration of a pod with those namespaces.
func (s *podScope) namespacesConfig(options *cri.NamespaceOption) *cri.PodSandboxConfig {
	config := s.podConfig()
	config.Linux.SecurityContext.NamespaceOptions = options
	return config
}

// sleepersSeen counts the processes that a container sees sleep; one that has ended and that nobody has waited for has no command line.
const sleepersSeen = "grep -l 's[l]eep' /proc/[0-9]*/cmdline | wc -l"

// TestPodNamespaces has a pod whose containers share all namespaces, which have their own host name and parameters. With runc it would
// depend on the pause image who waits for orphans.
func TestPodNamespaces(t *testing.T) {
	eachLimpetMode(t, func(s *podScope) {
		config := s.namespacesConfig(&cri.NamespaceOption{Pid: cri.NamespaceMode_POD})
		config.Hostname = "barnacle"
		config.Linux.Sysctls = map[string]string{
			"kernel.shm_rmid_forced": "1", "kernel.msgmax": "1234", "fs.mqueue.msg_max": "20", "net.ipv4.ip_local_port_range": "2000 3000",
		}
		p := s.run(config)
		one := p.start(p.containerConfig("one", "sh", "-c", "sleep 1000001 & (sleep 1000002 &); exec sleep 1000003"))
		two := p.start(p.containerConfig("two", "sleep", "1000000"))
		const parameters = "cd /proc/sys; cat kernel/hostname kernel/shm_rmid_forced kernel/msgmax fs/mqueue/msg_max net/ipv4/ip_local_port_range"
		for _, container := range []string{one, two} {
			p.wantExec("barnacle\n1\n1234\n20\n2000\t3000", container, "sh", "-c", parameters)
			p.wantExec("4", container, "sh", "-c", sleepersSeen)
		}
		links := []string{"sh", "-c", "cd /proc/self/ns; for ns in ipc uts net pid; do readlink $ns; done"}
		p.wantExec(p.execSync(one, links...), two, links...)

		// Orphans are taken in by the pod, which waits for them.
		p.execSync(two, "sh", "-c", "(true &)")
		p.execSync(two, "sh", "-c", "while grep -q 'State:.Z' /proc/[0-9]*/status; do sleep 0.1; done")

		// Nothing of a container lives on without its first process, and nothing else ends with it.
		_, err := daemon.Pods.StopContainer(s.ctx, &cri.StopContainerRequest{ContainerId: one})
		s.must(err)
		if code := p.exited(one); code != 137 {
			s.Errorf("the first container exited with %d, want 137", code)
		}
		p.wantExec("1", two, "sh", "-c", sleepersSeen)
	})
}

// TestPodWithoutHostname has a pod that is given no host name: it has the host's, as the file that CRI makes for it says.
func TestPodWithoutHostname(t *testing.T) {
	eachMode(t, func(s *podScope) {
		config := s.podConfig()
		config.Hostname = ""
		p := s.run(config)
		name, err := os.Hostname()
		s.must(err)
		p.wantExec(name, p.sleeper("one"), "hostname")
	})
}

// TestPodHostNamespaces has pods that ask for namespaces of the host.
func TestPodHostNamespaces(t *testing.T) {
	eachLimpetMode(t, func(s *podScope) {
		p := s.run(s.namespacesConfig(&cri.NamespaceOption{Pid: cri.NamespaceMode_NODE}))
		p.start(p.containerConfig("one", "sleep", "1000000"))
		p.wantExec("2", p.start(p.containerConfig("two", "sleep", "1000000")), "sh", "-c", sleepersSeen)

		made, err := daemon.RunPod(s.ctx, s.handler, s.namespacesConfig(&cri.NamespaceOption{Ipc: cri.NamespaceMode_NODE}))
		if err == nil {
			s.removedAtEnd(made)
			s.Fatal("a pod with the host's IPC namespace runs")
		}
		wantError(s.T, err.Error(), "ipc namespace", "let the pod have its own")

		config := s.podConfig()
		config.Linux.Sysctls = map[string]string{"vm.swappiness": "10"}
		if made, err = daemon.RunPod(s.ctx, s.handler, config); err == nil {
			s.removedAtEnd(made)
			s.Fatal("a pod with a parameter of the whole kernel runs")
		}
		wantError(s.T, err.Error(), "vm.swappiness", "namespace")
	})
}

// TestPodUsers has a pod whose users are others on the host. Its root is root of its files, of its volumes and of its namespaces, and the
// host sees somebody else.
func TestPodUsers(t *testing.T) {
	eachLimpetMode(t, func(s *podScope) {
		s.handler += harness.WithoutOptions
		ids := []*cri.IDMapping{{ContainerId: 0, HostId: mappedRoot, Length: 65536}}
		config := s.namespacesConfig(&cri.NamespaceOption{
			Pid: cri.NamespaceMode_CONTAINER, UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids},
		})
		config.Hostname = "barnacle"
		config.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "kernel.msgmax": "1234"}
		p := s.run(config)
		dir := s.TempDir()
		s.must(os.Chmod(dir, 0o755))
		mounted := volume(dir, "/data", false)
		mounted.UidMappings, mounted.GidMappings = ids, ids
		made := p.containerConfig("one", "sleep", "1000000")
		made.Mounts = []*cri.Mount{mounted}
		one, two := p.start(made), p.start(p.containerConfig("two", "sleep", "1000000"))
		for _, container := range []string{one, two} {
			p.wantExec("0 100000 65536\n0 100000 65536\n0 0\nbarnacle\n1\n1234", container, "sh", "-c",
				"awk '{ print $1, $2, $3 }' /proc/self/uid_map /proc/self/gid_map; touch /new && stat -c '%u %g' /new; "+
					"cd /proc/sys/kernel; cat hostname shm_rmid_forced msgmax")
		}
		links := []string{"sh", "-c", "cd /proc/self/ns; for ns in ipc uts net user; do readlink $ns; done"}
		p.wantExec(p.execSync(one, links...), two, links...)

		// Root of the container owns what the host's root has given it, by the mapping of the mount.
		p.wantExec("0 0", one, "sh", "-c", "stat -c '%u %g' /data && echo x >/data/new && chown 5:6 /data/new && touch /dev/shm/new")
		var file unix.Stat_t
		s.must(unix.Stat(filepath.Join(dir, "new"), &file))
		if file.Uid != 5 || file.Gid != 6 {
			s.Errorf("its file belongs to %d:%d on the host, want 5:6", file.Uid, file.Gid)
		}
	})
}
