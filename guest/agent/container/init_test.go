package container

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// lookAround has a shell say all that a container's first process can see of what was made for it.
const lookAround = `
	grep -E '^(Uid|Gid|Groups|Umask|Cap|NoNewPrivs|Seccomp|Sig[^Q]|Shd)' /proc/self/status
	cat /proc/self/limits /proc/self/cgroup /proc/self/oom_score_adj
	ls -l /proc/self/fd | sed 's/ [A-Z].*:.. /:/; s/:.[0-9]*.$//'
	sed 's/^[0-9]* [0-9]* [0-9]*:[0-9]* //; s/master:[0-9]*//; s/inode64//' /proc/self/mountinfo
	ls -l /dev /dev/pts | sed 's/ [A-Z][a-z][a-z] .*:[0-9][0-9] / /'
	pwd; env; umask; ls -l / | sed 's/ [A-Z][a-z][a-z] .*:[0-9][0-9] / /'
	cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname
	read pid name state ppid pgrp sid tty tpgid rest < /proc/$$/stat; echo leader $((pid - sid)) $((pid - pgrp)) $ppid $tty $((tpgid > 0))
	for f in /bound/* /hidden/* /keyed/*; do echo $f; cat $f; done; echo x >/locked/x; echo x >/root-is-locked; echo x >/dev/x && echo wrote
	busybox mkdir /keyed/new; busybox chmod 7777 /keyed; busybox chmod 777 /keyed
	exit 3
`

// TestInitIsAsCrun starts the same container in both ways and compares all that it can see of itself.
func TestInitIsAsCrun(t *testing.T) {
	umask, score, mode := uint32(0o027), 321, os.FileMode(0o640)
	for name, change := range map[string]func(h *host, spec *specs.Spec){
		"plain":    func(*host, *specs.Spec) {},
		"terminal": func(_ *host, s *specs.Spec) { s.Process.Terminal = true },
		"terminal of a user": func(_ *host, s *specs.Spec) {
			s.Process.Terminal, s.Process.User = true, specs.User{UID: 7, GID: 8}
		},
		"user": func(_ *host, s *specs.Spec) {
			s.Process.User = specs.User{UID: 1000, GID: 100, AdditionalGids: []uint32{100, 101}, Umask: &umask}
			s.Process.Env = s.Process.Env[:1]
		},
		"user with capabilities": func(_ *host, s *specs.Spec) {
			s.Process.User.UID = 1000
			s.Process.Capabilities.Inheritable, s.Process.Capabilities.Ambient = []string{"CAP_KILL"}, []string{"CAP_KILL", "CAP_CHOWN"}
		},
		"no capabilities": func(_ *host, s *specs.Spec) { s.Process.Capabilities, s.Process.NoNewPrivileges = nil, false },
		"limits": func(_ *host, s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_STACK", Soft: 1 << 20, Hard: 1 << 21},
			}
			s.Process.OOMScoreAdj = &score
		},
		"names":     func(_ *host, s *specs.Spec) { s.Hostname, s.Domainname = "limpet", "rock" },
		"directory": func(_ *host, s *specs.Spec) { s.Process.Cwd = "/new/deep" },
		"mounts": func(h *host, s *specs.Spec) {
			dir := h.t.TempDir()
			for _, name := range []string{"a", "locked"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
					h.t.Fatal(err)
				}
			}
			s.Mounts = append(s.Mounts,
				specs.Mount{Destination: "/bound", Type: "bind", Source: dir, Options: []string{"rbind", "rw", "nosuid", "nodev"}},
				specs.Mount{Destination: "/locked", Type: "bind", Source: dir, Options: []string{"bind", "ro", "rprivate"}},
				specs.Mount{Destination: "/all/locked", Type: "bind", Source: dir, Options: []string{"rbind", "rro", "rslave"}},
				specs.Mount{Destination: "/etc/one", Type: "bind", Source: filepath.Join(dir, "a"), Options: []string{"rbind", "noatime"}},
				specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"noexec", "size=1m"}},
				specs.Mount{Destination: "/memory", Type: "tmpfs", Source: "memory", Options: []string{"mode=700", "ro", "strictatime"}},
				specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
				specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
				specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "mode=1777", "size=64k"}})
		},
		"links on the way": func(_ *host, s *specs.Spec) {
			s.Mounts = append(s.Mounts,
				specs.Mount{Destination: "/absolute/x", Type: "tmpfs", Source: "one", Options: []string{"mode=700"}},
				specs.Mount{Destination: "/upward/y", Type: "tmpfs", Source: "two", Options: []string{"mode=700"}},
				specs.Mount{Destination: "/dangling", Type: "bind", Source: "/etc/hostname", Options: []string{"bind"}})
		},
		"hidden and locked": func(_ *host, s *specs.Spec) {
			s.Root.Readonly = true
			s.Linux.MaskedPaths = []string{"/proc/kcore", "/proc/keys", "/bin/../sys/firmware", "/nowhere", "/hidden", "/proc/acpi"}
			s.Linux.ReadonlyPaths = []string{"/proc/sys", "/proc/bus", "/nowhere", "/proc/sysrq-trigger"}
		},
		"devices": func(_ *host, s *specs.Spec) {
			uid := uint32(5)
			s.Linux.Devices = []specs.LinuxDevice{
				{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, FileMode: &mode, UID: &uid, GID: &uid},
				{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200},
				{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}, {Path: "/dev/fifo", Type: "p"},
			}
		},
		"devices of somewhere else": func(h *host, s *specs.Spec) {
			dev := h.t.TempDir()
			if err := unix.Mknod(filepath.Join(dev, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
				h.t.Fatal(err)
			}
			s.Mounts = []specs.Mount{s.Mounts[0], {Destination: "/dev", Type: "bind", Source: dev, Options: []string{"rbind", "ro"}}}
		},
		"filter": func(_ *host, s *specs.Spec) { s.Linux.Seccomp = filterOf() },
		"filter and new privileges": func(_ *host, s *specs.Spec) {
			s.Linux.Seccomp, s.Process.NoNewPrivileges, s.Process.User.UID = filterOf(), false, 7
		},
		"no control group of its own": func(_ *host, s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:4] },
		"propagation":                 func(_ *host, s *specs.Spec) { s.Linux.RootfsPropagation = "rslave" },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			var said [2]string
			spec := h.spec("sh", "-c", lookAround)
			change(h, spec)
			if canNative(spec) == nil {
				t.Fatal("not for native")
			}
			for i := range said {
				look := func() { said[i] = h.lookAround(fmt.Sprintf("c%d", i), spec) }
				if i == 0 {
					look()
				} else {
					h.byCrun(look)
				}
			}
			if !strings.Contains(said[0], "CapEff") || !strings.Contains(said[0], "leader 0 0") {
				t.Errorf("native: %s", said[0])
			}
			checkLines(t, said[0], said[1], true)
		})
	}
}

// filterOf is a filter that lets no directory be made, and no file's mode be some.
func filterOf() *specs.LinuxSeccomp {
	errno := uint(unix.EXDEV)
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64},
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"mkdir", "mkdirat", "no_such_call"}, Action: specs.ActErrno, ErrnoRet: &errno},
			{Names: []string{"chmod"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpGreaterThan, Value: 0o777}}},
		},
	}
}

// TestFilteredExec: an exec has its container's filter.
func TestFilteredExec(t *testing.T) {
	h := newHost(t)
	spec := h.spec("sh", "-c", "echo up; exec sleep 1000")
	spec.Linux.Seccomp = filterOf()
	h.run("c", spec).expect("up")
	for _, given := range []bool{true, false} {
		process := h.spec("sh", "-c", "grep ^Seccomp: /proc/self/status; busybox mkdir /new").Process
		process.NoNewPrivileges = given
		x := h.exec("c", process)
		out := x.output("stdout") + x.output("stderr")
		if !strings.Contains(out, "Seccomp:\t2\n") || !strings.Contains(out, "nvalid cross-device link") {
			t.Errorf("no new privileges %v: %q", given, out)
		}
	}
}

// lookAround is what a container's first process says of itself, without the names that are its own.
func (h *host) lookAround(id string, spec *specs.Spec) string {
	h.t.Helper()
	h.prepare(id)
	root := filepath.Join(h.share, id, "rootfs")
	for _, dir := range []string{"bound", "hidden", "keyed", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"absolute": "/tmp", "upward": "../../../../tmp", "dangling": "/run/../etc/none"} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("a:x:1000:100::/home/a:/bin/sh\n"), 0o644); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "hidden/secret"), []byte("seen"), 0o644); err != nil {
		h.t.Fatal(err)
	}
	k, err := h.tryRun(id, spec, &protocol.Size{Cols: 100, Rows: 30})
	if err != nil {
		h.t.Fatal(err)
	}
	out := k.output("stdout")
	if !spec.Process.Terminal {
		out += k.output("stderr")
	}
	if exit := k.wait(); exit.Code != 3 {
		h.t.Errorf("exit %+v", exit)
	}
	out = regexp.MustCompile(`/TestInitIsAsCrun[^ ]*/`).ReplaceAllString(out, "/")
	out = strings.ReplaceAll(out, "drwxr-xr-t", "drwxr-xr-x")                         // crun makes places to mount on sticky
	out = regexp.MustCompile(`(?m)^(d[rwxts-]+) +[0-9]+`).ReplaceAllString(out, "$1") // links of /proc: how many processes there are
	out = strings.ReplaceAll(strings.ReplaceAll(out, "/"+id+"/", "/c/"), cgroupName(id), "group")
	if !spec.Process.Terminal {
		return out
	}
	// Where terminals come from is mounted first; and crun, whose own output goes to a null device, gives that to the user.
	lines := slices.DeleteFunc(strings.Split(out, "\n"), func(line string) bool { return strings.HasSuffix(line, " null\r") })
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestByCrun has crun start the containers of other tests, which native starts there.
func TestByCrun(t *testing.T) {
	allByCrun = true
	defer func() { allByCrun = false }()
	for name, test := range map[string]func(*testing.T){
		"output": TestRunOutputExit, "input": TestStdinToStdout, "signals": TestSignals, "kill all": TestKillAllEndsExecsBeforeInit,
		"output held": TestExitWithOutputHeldAndUnread, "failed starts": TestFailedStarts, "pause": TestPauseResumePidsStats, "stop": TestStop,
		"terminal": TestTerminal, "pod": TestPodIsShared, "shared PID namespace": TestEndInSharedPID,
		"another container's": TestNamespaceOfContainer,
	} {
		t.Run(name, test)
	}
}

// TestFailedInit says what is wrong with a container's program or directories, and leaves nothing.
func TestFailedInit(t *testing.T) {
	h := newHost(t)
	h.prepare("c")
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		want   string
	}{
		"no program":       {func(s *specs.Spec) { s.Process.Args[0] = "nope" }, `executable file "nope" not found in $PATH`},
		"no program there": {func(s *specs.Spec) { s.Process.Args[0] = "/bin/nope" }, `executable file "/bin/nope" not found`},
		"a directory":      {func(s *specs.Spec) { s.Process.Args[0] = "/proc" }, `"/proc" is not executable`},
		"not executable":   {func(s *specs.Spec) { s.Process.Args[0] = "/proc/version" }, `"/proc/version" is not executable`},
		"not for this user": {func(s *specs.Spec) {
			s.Process.Args[0], s.Process.User.UID, s.Process.Capabilities = "/root-only/sh", 5, nil
		}, `"/root-only/sh" is not executable`},
		"directory a file": {func(s *specs.Spec) { s.Process.Cwd = "/bin/busybox" }, "working directory /bin/busybox: not a directory"},
		"no source": {func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/nowhere", Options: []string{"bind"}})
		}, "source /nowhere: no such file"},
		"a file for a place": {func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/bin/sh/x", Type: "tmpfs", Source: "x", Options: []string{"mode=700"}})
		}, "/bin/sh/x of the container: not a directory"},
		"bad option": {func(s *specs.Spec) { s.Mounts[1].Options = []string{"size=many"} }, "option size=many: invalid argument"},
		"link for proc": {func(s *specs.Spec) {
			s.Mounts[0].Destination = "/link"
		}, "/link of the container: not a directory"},
		"bad rule": {func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Type: "x"}}}
		}, `type "x"`},
		"long name":  {func(s *specs.Spec) { s.Hostname = strings.Repeat("x", 100) }, "set the host name"},
		"a zero":     {func(s *specs.Spec) { s.Process.Args = append(s.Process.Args, "a\x00b") }, "invalid argument"},
		"bad limits": {func(s *specs.Spec) { s.Process.Rlimits[0].Soft = 1 << 40 }, "set RLIMIT_NOFILE: invalid argument"},
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(h.share, "c/rootfs")
			_ = os.Symlink("proc", filepath.Join(root, "link"))
			_ = os.Mkdir(filepath.Join(root, "root-only"), 0o700)
			_ = os.Link(filepath.Join(root, "bin/busybox"), filepath.Join(root, "root-only/sh"))
			spec := h.spec("sh", "-c", "true")
			c.change(spec)
			if canNative(spec) == nil {
				t.Fatal("not for native")
			}
			if _, err := h.tryRun("c", spec, nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %s", err, c.want)
			}
			if entries, _ := os.ReadDir(h.set.Dir); len(entries) != 0 {
				t.Errorf("left: %v", entries)
			}
		})
	}
	k, err := h.tryRun("c", h.spec("true"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if exit := k.wait(); exit.Code != 0 {
		t.Errorf("a start after failed ones: %+v", exit)
	}
}

// TestNoDescriptors: a container whose directory or program is one of the agent's descriptors does not get there.
func TestNoDescriptors(t *testing.T) {
	h := newHost(t)
	outside, err := os.Open(h.share)
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	h.prepare("c")
	for fd := 3; fd < 40; fd++ {
		spec := h.spec("ls")
		spec.Process.Cwd = fmt.Sprintf("/proc/self/fd/%d", fd)
		if k, err := h.tryRun("c", spec, nil); err == nil {
			t.Fatalf("%s: in %q", spec.Process.Cwd, k.output("stdout"))
		}
	}
}
