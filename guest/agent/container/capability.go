package container

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// capabilityNames are in the order of their numbers: linux/capability.h.
var capabilityNames = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN",
	"CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
	"CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// capabilities is a set of capabilities, a bit for each.
type capabilities uint64

func (c capabilities) has(number int) bool { return c&(1<<number) != 0 }

// capabilitiesOf makes a set of names; ok is false if one is unknown.
func capabilitiesOf(names []string) (set capabilities, ok bool) {
	for _, name := range names {
		number := slices.Index(capabilityNames[:], name)
		if number < 0 {
			return 0, false
		}
		set |= 1 << number
	}
	return set, true
}

// capabilitySets are the sets of a process. The ambient set is empty.
type capabilitySets struct {
	bounding, effective, permitted, inheritable capabilities
}

// capabilitySetsOf reads the sets of a specification; ok is false if they are not such sets.
func capabilitySetsOf(c *specs.LinuxCapabilities) (sets capabilitySets, ok bool) {
	if c == nil || len(c.Ambient) > 0 {
		return sets, false
	}
	for _, s := range []struct {
		names []string
		set   *capabilities
	}{{c.Bounding, &sets.bounding}, {c.Effective, &sets.effective}, {c.Permitted, &sets.permitted}, {c.Inheritable, &sets.inheritable}} {
		if *s.set, ok = capabilitiesOf(s.names); !ok {
			return sets, false
		}
	}
	return sets, true
}

// apply makes the sets the calling thread's.
func (s capabilitySets) apply() error {
	for number := range 64 {
		if s.bounding.has(number) {
			continue
		}
		// The first number that the kernel does not know ends its list.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(number), 0, 0, 0); err == unix.EINVAL {
			break
		} else if err != nil {
			return fmt.Errorf("drop capability %d: %w", number, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear the ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i := range data {
		data[i] = unix.CapUserData{
			Effective: uint32(s.effective >> (32 * i)), Permitted: uint32(s.permitted >> (32 * i)),
			Inheritable: uint32(s.inheritable >> (32 * i)),
		}
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	return nil
}
