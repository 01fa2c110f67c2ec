package container

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

func TestCanNative(t *testing.T) {
	limit := int64(1)
	weight := uint16(1)
	for name, c := range map[string]struct {
		change          func(*specs.Spec)
		native, entered bool
	}{
		"plain": {func(*specs.Spec) {}, true, true},
		"much of it": {func(s *specs.Spec) {
			adjust := -500
			s.Process.NoNewPrivileges, s.Process.OOMScoreAdj, s.Process.User.UID = true, &adjust, 1000
			s.Process.Capabilities.Ambient = []string{"CAP_KILL"}
			s.Root.Readonly, s.Hostname, s.Domainname = true, "a", "b"
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths, s.Linux.RootfsPropagation = []string{"/proc/kcore"}, []string{"/proc/sys"}, "rslave"
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/y", Options: []string{"rbind", "ro", "rprivate"}})
			s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}, Pids: &specs.LinuxPids{Limit: &limit}}
		}, true, true},
		"a terminal": {func(s *specs.Spec) { s.Process.Terminal = true }, true, true},
		"a terminal from nowhere": {func(s *specs.Spec) {
			s.Process.Terminal = true
			s.Mounts = s.Mounts[:1]
		}, false, true},
		"a tracer":      {func(s *specs.Spec) { s.Process.Capabilities.Bounding = []string{"CAP_SYS_PTRACE"} }, true, true},
		"unknown limit": {func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NEW"}} }, false, false},
		"apparmor":      {func(s *specs.Spec) { s.Process.ApparmorProfile = "x" }, false, false},
		"selinux":       {func(s *specs.Spec) { s.Process.SelinuxLabel = "x" }, false, false},
		"scheduler":     {func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{} }, true, true},
		"seccomp":       {func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow} }, true, false},
		"seccomp with a supervisor": {func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/x"}
		}, false, false},
		"personality":       {func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{} }, false, false},
		"guest's processes": {func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }, false, false},
		"user namespace": {func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		}, false, false},
		"time namespace": {func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		}, false, false},
		"hooks":                 {func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/x"}}} }, false, true},
		"no hooks in the guest": {func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/x"}}} }, true, true},
		"parameters":            {func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.sem": "1"} }, false, true},
		"block devices' limits": {func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: &weight}}
		}, false, true},
		"mapped mount": {func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/y", Options: []string{"rbind", "idmap"}})
		}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			spec := (&host{}).spec("sh")
			c.change(spec)
			if native := canNative(spec) != nil; native != c.native {
				t.Errorf("native: %v, want %v", native, c.native)
			}
			if entered := canEnter(spec, spec.Process); entered != c.entered {
				t.Errorf("entered: %v, want %v", entered, c.entered)
			}
		})
	}
}

// TestNativeIsAsCrun starts the same process in both ways and compares all that it can see of itself.
func TestNativeIsAsCrun(t *testing.T) {
	h := newHost(t)
	h.byCrun(func() { h.run("c", h.spec("sh", "-c", "echo up; exec sleep 1000")).expect("up") })
	const look = `
		grep -E '^(Uid|Gid|Groups|Umask|Cap|NoNewPrivs|Seccomp|Sig[^Q]|Shd)' /proc/self/status
		cat /proc/self/limits /proc/self/cgroup /proc/self/oom_score_adj
		for ns in ipc mnt net pid uts cgroup user time; do ls -l /proc/self/ns/$ns | grep -o '[a-z]*:.*'; done
		ls -l /proc/self/fd | sed 's/ [A-Z].*:.. /:/; s/:.[0-9]*.$//'; pwd; env; umask; ls /
		read pid name state ppid pgrp sid tty tpgid rest < /proc/$$/stat; echo leader $((pid - sid)) $((pid - pgrp)) $ppid $tty $((pid - tpgid))
	`
	umask := uint32(0o027)
	few := []string{"CAP_CHOWN", "CAP_KILL"}
	for name, change := range map[string]func(*specs.Process){
		"plain":  func(*specs.Process) {},
		"no cap": func(p *specs.Process) { p.Capabilities = &specs.LinuxCapabilities{} },
		"caps": func(p *specs.Process) {
			p.Capabilities = &specs.LinuxCapabilities{Bounding: few, Effective: few[:1], Permitted: few, Inheritable: few[1:]}
		},
		"new privileges": func(p *specs.Process) { p.NoNewPrivileges = false },
		"groups": func(p *specs.Process) {
			p.User.GID, p.User.AdditionalGids = 5, []uint32{7, 8, 9}
			p.Rlimits = nil // to limit a process of another group takes CAP_SYS_RESOURCE, which not every test machine gives
		},
		"umask": func(p *specs.Process) { p.User.Umask = &umask },
		"limits": func(p *specs.Process) {
			p.Rlimits = []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_CORE"}, {Type: "RLIMIT_NPROC", Soft: 500, Hard: 500},
				{Type: "RLIMIT_STACK", Soft: 1 << 20, Hard: 1 << 21},
			}
		},
		"no limits":   func(p *specs.Process) { p.Rlimits = nil },
		"elsewhere":   func(p *specs.Process) { p.Cwd = "/bin"; p.Env = append(p.Env, "A=b c", "B=") },
		"at a path":   func(p *specs.Process) { p.Args[0] = "/bin/sh" },
		"path in env": func(p *specs.Process) { p.Env = []string{"PATH=/nowhere:/bin"} },
		"terminal":    func(p *specs.Process) { p.Terminal = true },
	} {
		t.Run(name, func(t *testing.T) {
			process := h.spec("sh", "-c", look).Process
			change(process)
			h.t = t
			native, general := h.execBy(false, process), h.execBy(true, process)
			if !strings.Contains(native, "CapEff") || !strings.Contains(native, "leader 0 0") {
				t.Errorf("native: %s", native)
			}
			checkLines(t, native, general, process.Terminal)
		})
	}
}

func TestNativeScore(t *testing.T) {
	h := newHost(t)
	k := h.run("c", h.spec("sh", "-c", "echo up; exec sleep 1000"))
	k.expect("up")
	score := 321
	process := h.spec("cat", "/proc/self/oom_score_adj").Process
	process.OOMScoreAdj = &score
	if out := h.exec("c", process).output("stdout"); out != "321\n" {
		t.Errorf("score %q", out)
	}
}

// checkLines compares what the process said when it was started in the one and in the other way. crun makes a process the leader of a
// session only if it has a terminal; native always, as runc does.
func checkLines(t *testing.T, native, crun string, terminal bool) {
	t.Helper()
	ours, theirs := strings.Split(native, "\n"), strings.Split(crun, "\n")
	if len(ours) != len(theirs) {
		t.Fatalf("native: %s\ncrun: %s", native, crun)
	}
	for i := range ours {
		if unsaidByMake(ours[i]) != unsaidByMake(theirs[i]) && (terminal || !strings.HasPrefix(ours[i], "leader")) {
			t.Errorf("native: %s\ncrun:   %s", ours[i], theirs[i])
		}
	}
}

// unsaidByMake leaves out of the ignored signals those of the C library, 32 and 33: make ignores them, and what this test's process has of
// who started it is passed on.
func unsaidByMake(line string) string {
	var ignored uint64
	if _, err := fmt.Sscanf(line, "SigIgn:\t%x", &ignored); err != nil {
		return line
	}
	return strings.Replace(line, fmt.Sprintf("%016x", ignored), fmt.Sprintf("%016x", ignored&^(3<<31)), 1)
}

// byCrun does something while everything is started by crun.
func (h *host) byCrun(do func()) {
	native := h.set.native
	h.set.native = h.set.crun
	defer func() { h.set.native = native }()
	do()
}

// execBy runs a process natively or by crun and returns its output.
func (h *host) execBy(crun bool, process *specs.Process) (out string) {
	h.t.Helper()
	if crun {
		h.byCrun(func() { out = h.execBy(false, process) })
		return out
	}
	x, err := h.tryExec("c", process, &protocol.Size{Cols: 100, Rows: 30})
	if err != nil {
		h.t.Fatal(err)
	}
	out = x.output("stdout")
	if process.Terminal {
		return out
	}
	return out + x.output("stderr")
}

func TestNativeErrors(t *testing.T) {
	h := newHost(t)
	k := h.run("c", h.spec("sh", "-c", "echo up; exec sleep 1000"))
	k.expect("up")
	for name, c := range map[string]struct {
		args []string
		cwd  string
		want error
		text string
	}{
		"missing in path": {[]string{"nope"}, "/", unix.ENOENT, `"nope" not found in $PATH`},
		"missing":         {[]string{"/bin/nope"}, "/", unix.ENOENT, "/bin/nope"},
		"a directory":     {[]string{"/proc"}, "/", unix.EACCES, "/proc"},
		"not executable":  {[]string{"/proc/version"}, "/", unix.EACCES, "/proc/version"},
		"no directory":    {[]string{"true"}, "/nowhere", unix.ENOENT, "/nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			process := h.spec(c.args...).Process
			process.Cwd = c.cwd
			l := launch{container: h.set.containers["c"], requestID: 77, process: process}
			io, err := openStdio(protocol.Streams{}, 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer io.close()
			l.io = io
			if _, err := h.set.native.start(t.Context(), l); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %v, want %v with %s", err, c.want, c.text)
			}
		})
	}
}

func TestLookup(t *testing.T) {
	for _, c := range []struct {
		program string
		env     []string
		want    string
		err     error
	}{
		{"sh", []string{"PATH=/nowhere:/bin"}, "/bin/sh", nil},
		{"sh", nil, "/usr/bin/sh", nil},
		{"sh", []string{"PATH=/nowhere", "PATH=/bin"}, "", unix.ENOENT},
		{"passwd", []string{"PATH=/etc:/nowhere"}, "", unix.EACCES},
		{"/etc/passwd", nil, "", unix.EACCES},
		{"/bin/sh", nil, "/bin/sh", nil},
		{"", []string{"PATH=/bin"}, "", unix.EACCES},
	} {
		got, err := lookup(c.program, c.env)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("lookup(%q, %q) = %q, %v; want %q, %v", c.program, c.env, got, err, c.want, c.err)
		}
	}
}

func TestRehearse(t *testing.T) {
	h := newHost(t)
	for range 2 {
		if err := h.set.Rehearse(h.context()); err != nil {
			t.Fatal(err)
		}
	}
	if checkID(rehearsalID) == nil {
		t.Errorf("another container can be called %s", rehearsalID)
	}
	if len(h.set.containers)+len(h.set.requests) != 0 || len(h.notes()) != 0 {
		t.Errorf("left: %v, %v; heard %q", h.set.containers, h.set.requests, h.notes())
	}
	for _, dir := range []string{h.set.Dir, "/sys/fs/cgroup"} {
		if left, err := filepath.Glob(filepath.Join(dir, "*rehearsal*")); err != nil || len(left) != 0 {
			t.Errorf("left: %q, %v", left, err)
		}
	}
}
