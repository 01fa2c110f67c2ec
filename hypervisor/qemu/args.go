package qemu

import (
	"fmt"
	"strings"

	"github.com/limpet-run/limpet/hypervisor"
)

// The files that QEMU inherits, by their numbers in its process.
const (
	monitorFD = 3
	memoryFD  = 4
)

// arguments is the command line of a paused machine; accelerator is kvm or tcg. A machine that takes its state from a file waits
// for it (restore), else it is before its first instruction.
func arguments(config hypervisor.Config, accelerator hypervisor.Accelerator, restore bool) []string {
	args := []string{
		"-name", "limpet-" + escape(config.Name),
		"-S",
		// The machine resets only when the guest's kernel panics: that is its end.
		"-no-reboot",
		// Nothing but what is listed here.
		"-no-user-config", "-nodefaults", "-display", "none",
		"-machine", machineType,
		// A firmware that does nothing but start the kernel saves a tenth of an emulated boot. It comes with QEMU.
		"-bios", "qboot.rom",
		"-accel", acceleration(config, accelerator),
		"-cpu", processor(accelerator),
		"-smp", fmt.Sprint(processors(config)),
		"-m", memorySize(config),
		"-object", memory(config, restore),
		// Devices come and go as PCI Express has it, without the ACPI: its tables would describe each port, and the guest run programs of
		// theirs for each device, which takes an emulated one longer than all else about it. That a device is there the guest is told by us.
		"-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
		// By this the guest parks. In a machine that is not to be saved it has no effect.
		"-device", "pvpanic", "-action", "panic=" + panicAction(config),
		"-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", monitorFD), "-mon", "chardev=monitor,mode=control",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		// Daemons are our processes, so QEMU never has a reason to start or to become anything.
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
	}
	if !config.PrivateMemory {
		// By this the guest tells which of its memory it does not use (free page reporting), and the host has that back. QEMU makes holes
		// in the file of memory there, which therefore has to be the machine's own.
		args = append(args, "-device", fmt.Sprintf("virtio-balloon-pci,id=balloon,bus=pcie.0,addr=%#x,free-page-reporting=on", balloonSlot))
	}
	for i := range portCount(config) {
		args = append(args, "-device", fmt.Sprintf("pcie-root-port,id=%s,bus=pcie.0,addr=%#x,chassis=%d,power_controller_present=off",
			port(i), firstPortSlot+i, i+1))
	}
	if restore { // a kernel and its image are in the memory already
		return append(args, "-incoming", "defer")
	}
	return append(args, "-kernel", config.Kernel, "-initrd", config.Initrd,
		"-append", strings.Join(append(kernelParameters(config.VCPUs, accelerator), config.Cmdline...), " "))
}

// memory is a file of ours. It is shared, because vhost-user daemons map it, and Save reads it; but for a clone that has it to itself.
func memory(config hypervisor.Config, restore bool) string {
	share := "on"
	if restore && config.PrivateMemory {
		share = "off"
	}
	return fmt.Sprintf("memory-backend-file,id=memory,share=%s,size=%dM,mem-path=/proc/self/fd/%d", share, config.MemoryMiB, memoryFD)
}

// panicAction is what QEMU does when the guest uses its pvpanic device.
func panicAction(config hypervisor.Config) string {
	if config.Parks {
		return "pause"
	}
	return "none"
}

// machineType is q35 without what no guest of ours has a driver for: less to emulate, to enumerate and to attack.
const machineType = "q35,memory-backend=memory,sata=off,smbus=off,vmport=off,i8042=off,smm=off,usb=off"

// Places on the root bus: the host bridge is at 0, then comes what every machine has, then the ports.
const (
	balloonSlot   = 1
	firstPortSlot = 2
)

// portCount is the number of PCI Express ports that devices can be plugged into. Each costs 15 ms of an emulated boot.
func portCount(config hypervisor.Config) int {
	if config.Ports == 0 {
		return hypervisor.DefaultPorts
	}
	return config.Ports
}

// port names a port; devices are plugged into the bus of that name.
func port(i int) string { return fmt.Sprintf("port%d", i) }

const (
	// minTranslationsMiB is room for the translations of a guest that does little. A container takes 30 MiB to start. A guest of 256 MiB in
	// which compilers and interpreters run has filled 300 after minutes, and uses no more of its processor's time with 64; with 32 it
	// uses a third more.
	minTranslationsMiB = 64
	// maxTranslationsMiB is what QEMU would take for every machine.
	maxTranslationsMiB = 1024
	// translationsPerMemory is how much more memory a guest has than room for translations.
	translationsPerMemory = 4
	// translationsPerVCPU comes on top, in MiB: QEMU deals the room out in regions of at least 2 MiB, of which each processor holds one.
	translationsPerVCPU = 4
)

// acceleration is the -accel. TCG keeps the translations of the guest's code for as long as there is room, whether they are used or not,
// and then drops them all: room in proportion to the guest's memory bounds what a guest can cost beside that.
func acceleration(config hypervisor.Config, accelerator hypervisor.Accelerator) string {
	if accelerator != hypervisor.AcceleratorTCG {
		return string(accelerator)
	}
	room := min(max(config.MemoryMiB/translationsPerMemory, minTranslationsMiB), maxTranslationsMiB)
	return fmt.Sprintf("%s,tb-size=%d", accelerator, room+translationsPerVCPU*processors(config))
}

// processors is how many the machine has, those that the guest does not use yet among them.
func processors(config hypervisor.Config) int { return max(config.VCPUs, config.MaxVCPUs) }

// processor is the -cpu of an accelerator. TCG's has rdrand, which the guest's first randomness comes from (random.trust_cpu), and
// goes without "fast" string operations: TCG runs rep movsb byte by byte, and copies are four times faster by other means. Nor has it
// monitor and mwait, with which a processor that the guest stops would spin on the host.
func processor(accelerator hypervisor.Accelerator) string {
	if accelerator == hypervisor.AcceleratorKVM {
		return "host"
	}
	return "max,-erms,-fsrm,-monitor"
}

// memorySize is the -m: what there is from the start, and up to where addresses are kept for what is added.
func memorySize(config hypervisor.Config) string {
	size := fmt.Sprintf("%dM", config.MemoryMiB)
	if config.MaxMemoryMiB > config.MemoryMiB {
		size += fmt.Sprintf(",maxmem=%dM", config.MaxMemoryMiB)
	}
	return size
}

// kernelParameters are those that belong to this machine and its command line.
func kernelParameters(vcpus int, accelerator hypervisor.Accelerator) []string {
	parameters := []string{
		"console=ttyS0",
		"panic=-1", "reboot=t", // a panic ends the machine at once, by a triple fault: there is no i8042 to reset it
		"random.trust_cpu=on", // else the first getrandom waits a second
		"pcie_ports=compat",   // the agent looks after the ports; to probe them for services takes time
		// The kernel starts these processors, the agent the others. To plug processors into the running machine is no way: without KVM
		// the kernel takes itself for hardware, where none are to come.
		fmt.Sprintf("maxcpus=%d", vcpus),
		// Memory that is added is put to use at once, most of it such that it can be given back.
		"memhp_default_state=online", "memory_hotplug.online_policy=auto-movable",
		// Free memory is reported in pieces of 16 pages and more: what is left in smaller ones is half a megabyte after a start.
		"page_reporting.page_reporting_order=4",
	}
	if accelerator == hypervisor.AcceleratorTCG {
		parameters = append(parameters,
			"clearcpuid=rep_good", // see processor
			// The kernel looks whether the timer ticks, and panics if it does not within moments: on a busy host those may pass while
			// the processor, a thread, does not run. Under KVM it does not look.
			"no_timer_check",
			// Cycles in a tick (4 ms) of a processor with 4 GHz. The kernel would measure it on each processor that it starts later, for
			// two seconds. It is for short waits only, which on a slower host become longer.
			"lpj=16000000",
			// TCG drops its translations of a page's code when the guest writes there, but does not see virtiofsd write. Without
			// this, a page that held code and is then filled with another program from the share runs the old code now and then.
			// The guest writes zeroes into a page before its next use.
			"init_on_alloc=1",
		)
	}
	return parameters
}

// escape makes a text fit for a value in QEMU's comma-separated options.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }

// device is what plugging takes: the chardev to a vhost-user daemon, the netdev of a network card or the blockdev of a disk, if there is
// one, and device_add's arguments.
type device struct {
	chardev   map[string]any
	netdev    map[string]any
	blockdev  map[string]any
	arguments map[string]any
}

// vsockDevice plans the plugging of a vsock device whose file has been passed under its identifier.
func vsockDevice(id, port string, cid uint32, vhostUser bool) device {
	if vhostUser {
		return device{
			chardev:   chardev(id),
			arguments: map[string]any{"driver": "vhost-user-vsock-pci", "id": id, "bus": port, "chardev": chardevID(id)},
		}
	}
	return device{arguments: map[string]any{"driver": "vhost-vsock-pci", "id": id, "bus": port, "guest-cid": cid, "vhostfd": id}}
}

// shareDevice plans the plugging of a virtio-fs device whose daemon's socket has been passed under its identifier.
func shareDevice(id, port, tag string) device {
	return device{
		chardev:   chardev(id),
		arguments: map[string]any{"driver": "vhost-user-fs-pci", "id": id, "bus": port, "chardev": chardevID(id), "tag": tag},
	}
}

// nicDevice plans the plugging of a network card. Its tap, if it has one, has been passed under its identifier. It has no program for
// booting from the network.
func nicDevice(port string, nic hypervisor.NIC) device {
	netdev := "netdev-" + nic.ID
	backend := map[string]any{"type": "tap", "id": netdev, "fd": nic.ID}
	if nic.Tap == nil {
		backend = map[string]any{"type": "user", "id": netdev, "net": nic.Subnet.String(), "ipv6": false}
	}
	return device{
		netdev: backend,
		arguments: map[string]any{
			"driver": "virtio-net-pci", "id": nic.ID, "bus": port, "netdev": netdev, "mac": nic.MAC.String(), "romfile": "",
		},
	}
}

// chardev is over the connected socket that has been passed under the device's identifier.
func chardev(id string) map[string]any {
	address := map[string]any{"type": "fd", "data": map[string]any{"str": id}}
	backend := map[string]any{"type": "socket", "data": map[string]any{"addr": address, "server": false}}
	return map[string]any{"id": chardevID(id), "backend": backend}
}

func chardevID(id string) string { return "chardev-" + id }
