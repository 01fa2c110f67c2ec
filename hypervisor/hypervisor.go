// Package hypervisor is the virtual machine monitor behind one small interface.
//
// A machine is always made the same way: it comes into being paused and bare (CPU, memory, kernel, initramfs; no identity),
// by Boot or by Restore of a saved template; then its identity devices are plugged; then it is resumed.
//
//	             Plug, Save              Plug, Unplug, ResizeMemory
//	               ┌──┐                     ┌──┐
//	Boot ───────▶ ┌┴──▼────┐    Resume    ┌─┴──▼────┐
//	Restore ────▶ │ paused │ ───────────▶ │ running │
//	              └───┬────┘ ◀─────────── └────┬────┘
//	                  │     Pause, or the      │
//	                  │     guest parks        │
//	                  └──────▶ stopped ◀───────┘    Stop, or the machine ended by itself; Wait tells
//
// A machine that is to be saved is booted to park (Config.Parks): its guest stops it when it has done all that every clone would have to
// do. A clone's guest goes on behind that instruction.
//
// A call that the machine's state does not allow fails with errdefs.ErrFailedPrecondition and changes nothing. Unplug needs a
// running guest, because the guest lets go of the device; so does ResizeMemory. Pause is for the making of templates and needs a machine
// from which the devices of vhost-user daemons have been unplugged; Save needs one without any identity device and
// with the memory that it started with.
package hypervisor

import (
	"context"
	"net"
	"net/netip"
	"os"
)

// Config describes a bare machine.
type Config struct {
	// Name is for logs, errors and process titles.
	Name string
	// Dir is where the machine's sockets live while they are being connected. It exists, is the caller's, and is short enough for a
	// unix socket's path (below 80 bytes). The caller removes it after Stop.
	Dir         string
	Kernel      string   // path of an uncompressed vmlinux with a PVH entry
	Initrd      string   // path of the initramfs
	Cmdline     []string // kernel parameters, after those that the driver's machine needs (console, reset, randomness)
	VCPUs       int      // processors that the guest's kernel starts by itself
	MemoryMiB   int
	Accelerator Accelerator
	Cgroup      Cgroup // where the machine monitor and the daemons of devices run
	// MaxVCPUs is how many processors the machine has; the guest is to start those beyond VCPUs when they are needed. MaxMemoryMiB is
	// how far ResizeMemory can go. What is less than the machine starts with counts as that.
	MaxVCPUs     int
	MaxMemoryMiB int
	// Ports is how many devices can be plugged, added memory included, up to MaxPorts. 0: DefaultPorts.
	Ports int
	// Shares are to be plugged: their daemons start with the machine, so that Plug does not wait for them.
	Shares []Share
	// Parks lets the guest stop the machine, see Machine.Parked.
	Parks bool
	// PrivateMemory has a restored machine use the saved memory itself and copy the pages that it writes. No device of a vhost-user
	// daemon can be plugged into it, as those need memory that is shared. The saved machine has to be one that was booted with this: it
	// does not report free pages, as others give back to the host what their guest does not use.
	PrivateMemory bool
}

const (
	// DefaultPorts is enough for a vsock, a share, and six of: added memory, disks, network cards.
	DefaultPorts = 8
	// MaxPorts is how many places the root bus has beside those of the machine itself.
	MaxPorts = 28
)

// MemoryStepMiB is the unit in which memory is added to a machine: what a Linux guest on x86 makes usable at once (a memory block).
const MemoryStepMiB = 128

// Driver makes machines.
type Driver interface {
	// Boot starts a machine from its kernel. It returns it paused, before its first instruction. On error nothing is left behind.
	Boot(ctx context.Context, config Config) (Machine, error)
	// Restore makes a machine from what Save wrote in dir, paused where it was saved. Its ingredients have to be the saved machine's, and
	// the files as Save left them, ours alone (errdefs.ErrFailedPrecondition if not; errdefs.ErrNotFound: there are none). On error nothing
	// is left behind.
	Restore(ctx context.Context, config Config, dir string) (Machine, error)
	// CheckSaved looks whether what Save wrote in dir can still be restored: its files are as Save left them, and the files that it is
	// made of are as they were (errdefs.ErrFailedPrecondition if not; errdefs.ErrNotFound: there is none). It takes less than a
	// millisecond.
	CheckSaved(dir string) error
	// Ingredients lists what a machine of this configuration is made of, as far as a saved one depends on it: machines can be restored
	// from one that has the same.
	Ingredients(config Config) ([]Ingredient, error)
}

// Ingredient is something that a saved machine depends on: a file or a choice, by its name and a text that is another one if it has changed.
type Ingredient struct {
	Name  string `json:"name"`
	Path  string `json:"path,omitempty"` // of a file
	Value string `json:"value"`
}

// IngredientArguments is the name of what a configuration says of a machine. The other ingredients are the files that it names.
const IngredientArguments = "arguments"

// Machine is one virtual machine. Its methods are safe for concurrent use; those that change it take turns.
type Machine interface {
	// Plug adds a device. What the device needs on the host is started first and ends with the device or the machine. A machine that
	// has not run yet finds the device at its boot; a running guest finds it when it looks at its ports, which it does when it is told to
	// use the device, by other ways than this. errdefs.ErrAlreadyExists: the identifier is taken; errdefs.ErrResourceExhausted: no free port.
	Plug(ctx context.Context, device Device) error
	// Unplug removes the device with that identifier and waits until the guest has let go of it, which letGo tells it to (nil for a disk).
	// errdefs.ErrNotFound: no such device.
	Unplug(ctx context.Context, id string, letGo func(context.Context) error) error
	// AttachMount shows the guest a mount in a share: tree, a detached mount with those below it (open_tree(2)), on path. That is a file
	// or directory of the share, of the same kind, named from the share's directory. Nothing is mounted on the host; the mount goes
	// when path is removed there, or with the share. tree stays the caller's to close. errdefs.ErrNotFound: no such share.
	AttachMount(share, path string, tree *os.File) error
	// ResizeMemory adds memory to what the machine started with, or takes some of it back: added is what there is to be of it, in MiB, a
	// multiple of MemoryStepMiB between 0 and what the configuration leaves room for (else errdefs.ErrInvalidArgument). It does not wait
	// for the guest, which takes what is added some milliseconds later, and gives back what it can do without. The first addition
	// takes a device's port (errdefs.ErrResourceExhausted: none is free).
	ResizeMemory(ctx context.Context, added int) error
	// Pause stops the guest's processors. With a device that a vhost-user daemon serves it fails (errdefs.ErrFailedPrecondition): what
	// the guest told such a daemon at that moment can be lost, and the device hangs after Resume.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// Parked waits until the guest of a running machine has stopped it (Config.Parks).
	Parked(ctx context.Context) error
	// Save writes the state of a paused machine without identity devices into dir, which exists and is ours. The machine stays paused.
	Save(ctx context.Context, dir string) error
	// Wait returns once the machine has ended, or with the context's error. It returns nil if the machine ended by Stop or by the
	// guest's own power-off; else the error (errdefs.ErrUnavailable) says how it ended, with the guest's last console lines.
	Wait(ctx context.Context) error
	// Stop ends the machine and its daemons and waits until they are gone. It may be called in any state, more than once.
	// The error is the context's: the ending goes on without the caller.
	Stop(ctx context.Context) error
	// Accelerator is what runs the guest's instructions: KVM or TCG, never auto.
	Accelerator() Accelerator
	// Processes lists the host processes of the machine, so that another process can end them should this one die.
	Processes() []Process
	// Console returns the last of the guest's console, at most 16 KiB, without control characters. It is the guest's word:
	// for people's eyes only.
	Console() string
	// ConsoleSince returns what the guest has written to its console from an offset on, counted in bytes from its first, as far as Console
	// still has it. It also returns the offset behind that, and a channel that is closed when there is more.
	ConsoleSince(offset int64) (text string, end int64, more <-chan struct{})
}

// Device is something that can be plugged: Vsock, Share, NIC or Disk. Its identifier is unique in the machine: a letter, then up to 31
// letters, digits, '-', '_' or '.'.
type Device interface{ DeviceID() string }

// Vsock joins guest and host by the given socket device.
type Vsock struct {
	ID     string
	Socket VsockDevice
}

// VsockDevice is the host's half of a vsock device, as package vsock makes it. It stays its maker's, who closes it after the
// machine has stopped. It can be plugged once.
type VsockDevice interface {
	// CID is the guest's context identifier.
	CID() uint32
	// Attachment is what the machine monitor is given to reach the device.
	Attachment() VsockAttachment
	// Processes lists the device's daemons.
	Processes() []Process
}

// VsockAttachment is an open file that stands for a vsock device's host half.
type VsockAttachment struct {
	// VhostUser tells what File is: a connected socket to a vhost-user daemon, or else an open /dev/vhost-vsock whose guest CID is set.
	VhostUser bool
	// File stays the device's; the machine monitor gets a duplicate.
	File *os.File
}

// Share is a host directory that the guest mounts with virtio-fs, and cannot change. What is mounted below it is visible to the
// guest if it is attached (see Machine.AttachMount), and can be changed as far as its flags allow.
type Share struct {
	ID  string
	Tag string // what the guest mounts, at most 36 bytes
	Dir string
}

// NIC is a network card.
type NIC struct {
	ID  string
	MAC net.HardwareAddr
	// Tap is an open tap whose packets have the header of virtio-net. It stays the caller's; the machine monitor gets a duplicate.
	// Nil: the machine monitor itself sends what the guest says as the host, from sockets of its own.
	Tap *os.File
	// Subnet is, without a tap, the IPv4 network that the guest sees: the monitor answers there as the address 2, which stands for
	// the host, and 3, which resolves names as the host does; the guest is to be another one.
	Subnet netip.Prefix
}

// Disk is a block device or a regular file of the host's. The guest knows it by its identifier, which is the disk's serial number. All
// disks of a machine take one port together, and to unplug one takes no consent of the guest's.
type Disk struct {
	ID string
	// File is open, for reading only if the disk is read-only. It stays the caller's; the machine monitor gets a duplicate. What the guest
	// discards of a regular file takes no room there any more.
	File     *os.File
	ReadOnly bool
}

// DeviceID implements Device.
func (d Disk) DeviceID() string { return d.ID }

// DeviceID implements Device.
func (n NIC) DeviceID() string { return n.ID }

// DeviceID implements Device.
func (v Vsock) DeviceID() string { return v.ID }

// DeviceID implements Device.
func (s Share) DeviceID() string { return s.ID }
