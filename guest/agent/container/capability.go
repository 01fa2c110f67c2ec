package container

import (
	"encoding/binary"
	"slices"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/fork"
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

// capabilitiesOf makes a set of names. One that is unknown is passed over, as crun does: a newer kernel may have it.
func capabilitiesOf(names []string) (set capabilities) {
	for _, name := range names {
		if number := slices.Index(capabilityNames[:], name); number >= 0 {
			set |= 1 << number
		}
	}
	return set
}

// capabilitySets are the sets of a process.
type capabilitySets struct {
	bounding, effective, permitted, inheritable, ambient capabilities
}

// capabilitySetsOf reads the sets of a specification, which are empty if it has none.
func capabilitySetsOf(c *specs.LinuxCapabilities) capabilitySets {
	if c == nil {
		return capabilitySets{}
	}
	return capabilitySets{
		bounding: capabilitiesOf(c.Bounding), effective: capabilitiesOf(c.Effective), permitted: capabilitiesOf(c.Permitted),
		inheritable: capabilitiesOf(c.Inheritable), ambient: capabilitiesOf(c.Ambient),
	}
}

// capabilityCount is how many capabilities the kernel knows.
var capabilityCount = sync.OnceValue(func() int {
	count := 0
	for count < 64 {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(count), 0, 0, 0); err != nil {
			break
		}
		count++
	}
	return count
})

// bound has a process give up for ever what is not in the bounding set.
func (s capabilitySets) bound(p *fork.Plan) {
	for number := range capabilityCount() {
		if !s.bounding.has(number) {
			p.Call("drop a capability", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(number), 0, 0, 0)
		}
	}
}

// set has a process, whose user is set, take on the other sets.
func (s capabilitySets) set(p *fork.Plan) {
	// struct __user_cap_header_struct and two of __user_cap_data_struct: capset(2).
	header := binary.NativeEndian.AppendUint64(nil, unix.LINUX_CAPABILITY_VERSION_3)
	var data []byte
	for half := range 2 {
		for _, set := range []capabilities{s.effective, s.permitted, s.inheritable} {
			data = binary.NativeEndian.AppendUint32(data, uint32(set>>(32*half)))
		}
	}
	p.Call("set capabilities", unix.SYS_CAPSET, p.Bytes(header), p.Bytes(data))
	p.Call("clear the ambient capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	for number := range capabilityCount() {
		if s.ambient.has(number) { // what is not permitted and inheritable, too, cannot be
			p.CallIfPossible(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(number), 0, 0)
		}
	}
}
