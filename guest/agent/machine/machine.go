// Package machine is what a guest's PID 1 does to the machine itself: mounts, limits, loopback, clock, randomness, devices that come
// while it runs, and the power switch.
package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// CgroupRoot is where the one cgroup hierarchy is mounted.
const CgroupRoot = "/sys/fs/cgroup"

// mount is one file system that every guest has.
type mount struct {
	target, fsType string
	flags          uintptr
	data           string
}

// mounts are in order: a later one may lie in an earlier one.
var mounts = []mount{
	{"/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	// Group 5 is tty in every distribution.
	{"/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
	{"/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"/dev/mqueue", "mqueue", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	{"/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
}

// links are what a shell expects of /dev.
var links = map[string]string{
	"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
}

// limits are what containerd's own service file gives the containers of a host: a container whose specification names no limit
// finds the same here.
var limits = map[int]unix.Rlimit{
	unix.RLIMIT_NOFILE: {Cur: 1 << 20, Max: 1 << 20},
	unix.RLIMIT_NPROC:  {Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY},
	unix.RLIMIT_CORE:   {Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY},
}

// Setup makes a machine of a kernel that has just started its init.
func Setup() error {
	if err := stackRoot(); err != nil {
		return fmt.Errorf("stack the root file system: %w", err)
	}
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fsType, m.target, m.fsType, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.fsType, m.target, err)
		}
	}
	for link, target := range links {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := enableControllers(CgroupRoot); err != nil {
		return err
	}
	for resource, limit := range limits {
		if err := unix.Setrlimit(resource, &limit); err != nil {
			return fmt.Errorf("set limit %d: %w", resource, err)
		}
	}
	if err := shortenPageLists(); err != nil {
		return err
	}
	if err := raiseLoopback(); err != nil {
		return fmt.Errorf("raise the loopback interface: %w", err)
	}
	// A process on its way into a container shares this one's memory and is already visible there: nobody may look into it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid tracing: %w", err)
	}
	return nil
}

// stackRoot puts a bind mount of the initramfs over itself. pivot_root(2), with which a container gets its root, refuses to move the
// very first mount of a kernel; on top of it there is one that it can move.
func stackRoot() error {
	const stacked = "/.root"
	if err := os.Mkdir(stacked, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := unix.Mount("/", stacked, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	// The first mount is where this program comes from, and a process on its way into a container is still this program: a container that
	// gets hold of it (/proc/PID/exe) must not write to it.
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if err := unix.Chdir(stacked); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// enableControllers gives every controller of the kernel to the groups below root.
func enableControllers(root string) error {
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read the cgroup controllers: %w", err)
	}
	var all strings.Builder
	for _, name := range strings.Fields(string(controllers)) {
		all.WriteString("+" + name + " ")
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte(all.String()), 0); err != nil {
		return fmt.Errorf("enable the cgroup controllers %s: %w", all.String(), err)
	}
	return nil
}

func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}

// PowerOff writes back what is cached and turns the machine off. It returns only if the kernel refuses.
func PowerOff() error {
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
