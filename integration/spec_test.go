package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/containerd/api/services/tasks/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// configuration returns the container's OCI configuration.
func (c container) configuration() *specs.Spec {
	c.Helper()
	found, err := daemon.Containers.Get(daemon.Context(c.ctx), &containers.GetContainerRequest{ID: c.id})
	c.must(err)
	spec := new(specs.Spec)
	c.must(json.Unmarshal(found.Container.Spec.Value, spec))
	return spec
}

// reconfigure gives a container without a task another OCI configuration.
func (c container) reconfigure(spec *specs.Spec) {
	c.Helper()
	text, err := json.Marshal(spec)
	c.must(err)
	_, err = daemon.Containers.Update(daemon.Context(c.ctx), &containers.UpdateContainerRequest{
		Container: &containers.Container{ID: c.id, Spec: &anypb.Any{
			TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: text,
		}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec"}},
	})
	c.must(err)
}

// changeSpec changes the OCI configuration of a container without a task.
func (c container) changeSpec(change func(*specs.Spec)) {
	c.Helper()
	spec := c.configuration()
	change(spec)
	c.reconfigure(spec)
}

// scripted makes a container whose process is a shell that runs the script, and whose configuration was changed.
func (s *scope) scripted(flags []string, change func(*specs.Spec), script string) container {
	s.Helper()
	c := s.create(flags, "sh", "-c", script)
	if change != nil {
		c.changeSpec(change)
	}
	return c
}

// written runs a container to its end, which has to be 0, removes its task and returns what it wrote.
func (c container) written() string {
	c.Helper()
	file := filepath.Join(c.TempDir(), "output")
	c.createTask(&tasks.CreateTaskRequest{Stdout: "file://" + file, Stderr: "file://" + file})
	c.startTask("")
	code := c.wait("")
	c.deleteTask()
	text, err := os.ReadFile(file)
	c.must(err)
	if code != 0 {
		c.Errorf("exit code %d", code)
	}
	return string(text)
}

// id32 and mode return pointers, as the configuration wants them.
func id32(id uint32) *uint32 { return &id }

func mode(mode os.FileMode) *os.FileMode { return &mode }

// TestSpec checks from inside containers of one sandbox that what their OCI configurations ask for is so.
func TestSpec(t *testing.T) {
	s := begin(t)
	first := s.create(nil, "sleep", "1000000")
	first.changeSpec(func(spec *specs.Spec) {
		spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80"}
	})
	first.createTask(&tasks.CreateTaskRequest{})
	first.startTask("")
	if got := first.exec(nil, "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"); got.Stdout != "80\n" {
		t.Errorf("a sysctl of the network is %q: %v", got.Stdout, got.Err())
	}
	pod := first.pod()
	dir := t.TempDir()
	s.must(os.Chmod(dir, 0o755))
	s.must(os.WriteFile(filepath.Join(dir, "one"), []byte("one\n"), 0o644))

	tests := []struct {
		name   string
		flags  []string
		change func(*specs.Spec)
		script string
		want   string
	}{
		{"user and groups", nil, func(spec *specs.Spec) {
			spec.Process.User = specs.User{UID: 1000, GID: 2000, AdditionalGids: []uint32{3000, 3001}, Umask: id32(0o27)}
		}, "id -u; id -g; id -G; umask", "1000\n2000\n2000 3000 3001\n0027\n"},
		{"capabilities", nil, func(spec *specs.Spec) {
			two := []string{"CAP_CHOWN", "CAP_NET_RAW"}
			spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: two, Effective: two, Permitted: two}
		}, "grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status", "CapPrm:\t0000000000002001\nCapEff:\t0000000000002001\nCapBnd:\t0000000000002001\n"},
		{"ambient capability of a user", nil, func(spec *specs.Spec) {
			one := []string{"CAP_NET_BIND_SERVICE"}
			spec.Process.User.UID = 1000
			spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: one, Effective: one, Permitted: one, Inheritable: one, Ambient: one}
		}, "grep -E 'Cap(Eff|Amb)' /proc/self/status", "CapEff:\t0000000000000400\nCapAmb:\t0000000000000400\n"},
		{"no new privileges", nil, func(spec *specs.Spec) { spec.Process.NoNewPrivileges = true },
			"grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"},
		{"new privileges", []string{"--allow-new-privs"}, nil, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0\n"},
		{"seccomp", nil, withoutChmod, "grep Seccomp: /proc/self/status; touch /f; chmod 600 /f 2>&1; true",
			"Seccomp:\t2\nchmod: /f: Operation not permitted\n"},
		{"containerd's seccomp profile", []string{"--seccomp"}, nil, "grep Seccomp: /proc/self/status; unshare -U true 2>&1; true",
			"Seccomp:\t2\nunshare: unshare(0x10000000): Operation not permitted\n"},
		{"limits", nil, func(spec *specs.Spec) {
			spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 123, Hard: 456}, {Type: "RLIMIT_CORE"}}
		}, "ulimit -Sn; ulimit -Hn; ulimit -c", "123\n456\n0\n"},
		{"sysctls", nil, func(spec *specs.Spec) {
			spec.Linux.Sysctl = map[string]string{
				"kernel.msgmax": "1234", "fs.mqueue.msg_max": "20", "net.ipv4.ip_unprivileged_port_start": "80",
			}
		}, "cat /proc/sys/kernel/msgmax /proc/sys/fs/mqueue/msg_max /proc/sys/net/ipv4/ip_unprivileged_port_start", "1234\n20\n80\n"},
		{"read-only root", []string{"--read-only"}, nil, "touch /new 2>&1; touch /dev/shm/new && echo shm",
			"touch: /new: Read-only file system\nshm\n"},
		{"masked paths", nil, func(spec *specs.Spec) { spec.Linux.MaskedPaths = []string{"/etc/passwd", "/usr", "/missing"} },
			"wc -c </etc/passwd; ls /usr; touch /usr/new 2>&1; true", "0\ntouch: /usr/new: Read-only file system\n"},
		{"read-only paths", nil, func(spec *specs.Spec) { spec.Linux.ReadonlyPaths = []string{"/etc", "/proc/sys"} },
			"touch /etc/new 2>&1; echo x 2>&1 >/proc/sys/kernel/hostname; touch /new && echo root",
			"touch: /etc/new: Read-only file system\nsh: can't create /proc/sys/kernel/hostname: Read-only file system\nroot\n"},
		{"devices", nil, func(spec *specs.Spec) {
			spec.Linux.Devices = []specs.LinuxDevice{
				{Path: "/dev/nothing", Type: "c", Major: 1, Minor: 3, FileMode: mode(0o640), UID: id32(7), GID: id32(8)},
				{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, FileMode: mode(0o666)},
			}
		}, "stat -c '%F %t:%T %a %u:%g' /dev/nothing /dev/fuse; echo gone >/dev/nothing && wc -c </dev/nothing",
			"character special file 1:3 640 7:8\ncharacter special file a:e5 666 0:0\n0\n"},
		{"device not allowed", nil, nil, "mknod /log c 1 11 && cat /log 2>&1; true", "cat: can't open '/log': Operation not permitted\n"},
		{"device of the host", []string{"--device", "/dev/full"}, nil, "echo x 2>&1 >/dev/full; true",
			"sh: write error: No space left on device\n"},
		{"tmpfs", nil, func(spec *specs.Spec) {
			spec.Mounts = append(spec.Mounts, specs.Mount{
				Destination: "/scratch", Type: "tmpfs", Source: "tmpfs", Options: []string{"noexec", "nosuid", "size=64k", "mode=0700"},
			})
		}, "stat -c %a /scratch; grep -c ' /scratch tmpfs .*noexec.*size=64k' /proc/mounts; " +
			"dd if=/dev/zero of=/scratch/f bs=65k count=1 2>&1 | head -n 1",
			"700\n1\ndd: error writing '/scratch/f': No space left on device\n"},
		{"one file", nil, func(spec *specs.Spec) {
			spec.Mounts = append(spec.Mounts, specs.Mount{
				Destination: "/etc/one", Type: "bind", Source: filepath.Join(dir, "one"), Options: []string{"bind", "ro"},
			})
		}, "cat /etc/one; echo x 2>&1 >/etc/one; true", "one\nsh: can't create /etc/one: Read-only file system\n"},
		{"host and domain name", nil, func(spec *specs.Spec) { spec.Hostname, spec.Domainname = "barnacle", "rock.sea" },
			"hostname; cat /proc/sys/kernel/domainname", "barnacle\nrock.sea\n"},
		{"environment", nil, func(spec *specs.Spec) { spec.Process.Env = append(spec.Process.Env, "A=1 2", "B=", "C=a=b\n") },
			`printf '%s|' "$A" "${B-unset}" "$C"`, "1 2||a=b\n|"},
		{"working directory that is made", nil, func(spec *specs.Spec) { spec.Process.Cwd = "/new/dir" }, "pwd", "/new/dir\n"},
		{"score of the OOM killer", nil, func(spec *specs.Spec) { score := 321; spec.Process.OOMScoreAdj = &score },
			"cat /proc/self/oom_score_adj", "321\n"},
		{"privileged", []string{"--privileged"}, nil,
			"mkdir /mnt; mount -t tmpfs none /mnt && grep -c ' /mnt ' /proc/mounts; echo 1 >/proc/sys/vm/drop_caches && echo sysctl",
			"1\nsysctl\n"},
		{"hook before the start, in the container", nil, func(spec *specs.Spec) {
			spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{
				{Path: "/bin/sh", Args: []string{"sh", "-c", `exec >/hooked; echo "$WHO"; cat`}, Env: []string{"WHO=a hook", "PATH=/bin"}},
			}}
			spec.Annotations = map[string]string{"fruit": "fig"}
		}, `head -n 1 /hooked; grep -o '"fruit": *"fig"' /hooked | tr -d ' '`, "a hook\n\"fruit\":\"fig\"\n"},
		{"cgroup namespace", nil, func(spec *specs.Spec) {
			spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
		}, "cat /proc/self/cgroup", "0::/\n"},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := &scope{T: t, ctx: s.ctx, count: i + 1}
			c := s.scripted(slices.Concat(pod, test.flags), test.change, test.script)
			if got := c.written(); got != test.want {
				t.Errorf("the container wrote\n%s\nwant\n%s", got, test.want)
			}
		})
	}
	t.Run("user namespace", func(t *testing.T) { userNamespace(t, first, pod) })
	t.Run("exec", func(t *testing.T) { execInherits(t, first, pod) })
}

// withoutChmod is a seccomp profile under which no mode of a file can be changed.
func withoutChmod(spec *specs.Spec) {
	spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"chmod", "fchmod", "fchmodat"}, Action: specs.ActErrno},
	}}
}

// withUserNamespace gives a container users that are others on the host.
func withUserNamespace(spec *specs.Spec) {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: mappedRoot, Size: 65536}}
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = ids, ids
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
}

// mappedRoot is who root is on the host in a container of withUserNamespace.
const mappedRoot = 100000

// execInherits has a process beside the first one. It is in the same namespaces and under the same profile.
func execInherits(t *testing.T, first container, pod []string) {
	s := &scope{T: t, ctx: first.ctx, count: 200}
	c := s.create(pod, "sleep", "1000000")
	c.changeSpec(func(spec *specs.Spec) {
		withoutChmod(spec)
		withUserNamespace(spec)
	})
	c.createTask(&tasks.CreateTaskRequest{})
	c.startTask("")
	result := c.exec(nil, "sh", "-c", "id -u; awk '{ print $2 }' /proc/self/uid_map; grep Seccomp: /proc/self/status")
	if want := "0\n100000\nSeccomp:\t2\n"; result.Stdout != want {
		t.Errorf("an exec wrote\n%s\nwant\n%s\n%v", result.Stdout, want, result.Err())
	}
}

// userNamespace has a container whose root is another user, on its own files as on the host's.
func userNamespace(t *testing.T, first container, pod []string) {
	s := &scope{T: t, ctx: first.ctx, count: 100}
	dir := t.TempDir()
	s.must(os.Chmod(dir, 0o755))
	s.must(os.Chown(dir, mappedRoot, mappedRoot))
	c := s.scripted(pod, func(spec *specs.Spec) {
		withUserNamespace(spec)
		bind(dir, "/home", "bind")(spec)
	}, "id -u; awk '{ print $1, $2, $3 }' /proc/self/uid_map; stat -c %u /bin /home; echo again >/dev/stdout; "+
		"touch /home/new; touch /bin/new 2>&1; true")
	if got, want := c.written(), "0\n0 100000 65536\n65534\n0\nagain\ntouch: /bin/new: Permission denied\n"; got != want {
		t.Errorf("the container wrote\n%s\nwant\n%s", got, want)
	}
	var made unix.Stat_t
	s.must(unix.Stat(filepath.Join(dir, "new"), &made))
	if made.Uid != mappedRoot {
		t.Errorf("its file belongs to %d on the host, want %d", made.Uid, mappedRoot)
	}
}
