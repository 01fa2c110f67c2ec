package qemu

import (
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/hypervisor"
)

func TestArguments(t *testing.T) {
	config := hypervisor.Config{
		Name: "a,b", Kernel: "/k", Initrd: "/i", Cmdline: []string{"quiet", "x=1"}, VCPUs: 2, MemoryMiB: 256, MaxVCPUs: 8, MaxMemoryMiB: 4096,
	}
	common := []string{
		"-name limpet-a,,b", "-S", "-no-reboot", "-nodefaults", "-no-user-config", "-display none", "-smp 8",
		"-m 256M,maxmem=4096M", "memory-backend-file,id=memory,", "size=256M,mem-path=/proc/self/fd/4", "-device pvpanic",
		"socket,id=monitor,fd=3", "-sandbox on,", "pcie-root-port,id=port0,bus=pcie.0,addr=0x2,chassis=1",
		"pcie-root-port,id=port3,bus=pcie.0,addr=0x5,chassis=4",
	}
	booted := []string{
		"-kernel /k", "-initrd /i", "maxcpus=2 ", " quiet x=1", "console=ttyS0 ", "random.trust_cpu=on", "share=on", "panic=none",
	}
	const balloon = "virtio-balloon-pci,id=balloon,bus=pcie.0,addr=0x1,free-page-reporting=on"
	parking, private := config, config
	parking.Parks, private.PrivateMemory = true, true
	more := config
	more.Ports = hypervisor.MaxPorts
	line := strings.Join(arguments(more, hypervisor.AcceleratorTCG, false), " ")
	if !strings.Contains(line, "id=port27,bus=pcie.0,addr=0x1d,chassis=28") {
		t.Errorf("no port27 in %s", line)
	}
	for _, test := range []struct {
		name        string
		config      hypervisor.Config
		accelerator hypervisor.Accelerator
		restore     bool
		has, lacks  []string
	}{
		{
			"emulated", config, hypervisor.AcceleratorTCG, false,
			append(booted, balloon, "-accel tcg,tb-size=96 ", "-cpu max,-erms,-fsrm,-monitor", "clearcpuid=rep_good", "lpj="),
			[]string{"-incoming"},
		},
		{
			"on KVM", config, hypervisor.AcceleratorKVM, false,
			append(booted, "-accel kvm ", balloon, "-cpu host"), []string{"clearcpuid", "lpj=", "-incoming"},
		},
		{"parking", parking, hypervisor.AcceleratorTCG, false, []string{"-action panic=pause"}, []string{"panic=none"}},
		{
			"restored", config, hypervisor.AcceleratorTCG, true,
			[]string{"-incoming defer", "share=on", "panic=none", balloon}, []string{"-kernel", "-initrd", "-append"},
		},
		{"restored for itself", private, hypervisor.AcceleratorTCG, true, []string{"-incoming defer", "share=off"}, []string{"balloon"}},
		{"booted for such ones", private, hypervisor.AcceleratorTCG, false, booted, []string{"balloon"}},
	} {
		line := strings.Join(arguments(test.config, test.accelerator, test.restore), " ")
		for _, part := range slices.Concat(common, test.has) {
			if !strings.Contains(line, part) {
				t.Errorf("%s: no %q in %s", test.name, part, line)
			}
		}
		for _, part := range test.lacks {
			if strings.Contains(line, part) {
				t.Errorf("%s: %q in %s", test.name, part, line)
			}
		}
	}
}

// TestAcceleration sizes the room for translations.
func TestAcceleration(t *testing.T) {
	for _, test := range []struct {
		memoryMiB, vcpus, maxVCPUs int
		want                       string
	}{
		{96, 1, 1, "tcg,tb-size=68"}, {256, 1, 4, "tcg,tb-size=80"}, {512, 8, 0, "tcg,tb-size=160"}, {1 << 20, 1, 64, "tcg,tb-size=1280"},
	} {
		config := hypervisor.Config{MemoryMiB: test.memoryMiB, VCPUs: test.vcpus, MaxVCPUs: test.maxVCPUs}
		if got := acceleration(config, hypervisor.AcceleratorTCG); got != test.want {
			t.Errorf("%+v: got %s", test, got)
		}
		if got := acceleration(config, hypervisor.AcceleratorKVM); got != "kvm" {
			t.Errorf("%+v: got %s", test, got)
		}
	}
}

func TestDevices(t *testing.T) {
	const chardev = `{"backend":{"data":{"addr":{"data":{"str":"d"},"type":"fd"},"server":false},"type":"socket"},"id":"chardev-d"}`
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for _, test := range []struct {
		name               string
		device             device
		backend, arguments string
	}{
		{"vsock by the kernel", vsockDevice("d", "port0", 7, false), "null",
			`{"bus":"port0","driver":"vhost-vsock-pci","guest-cid":7,"id":"d","vhostfd":"d"}`},
		{"vsock by a daemon", vsockDevice("d", "port1", 7, true), chardev,
			`{"bus":"port1","chardev":"chardev-d","driver":"vhost-user-vsock-pci","id":"d"}`},
		{"share", shareDevice("d", "port2", "files"), chardev,
			`{"bus":"port2","chardev":"chardev-d","driver":"vhost-user-fs-pci","id":"d","tag":"files"}`},
		{"disks", controllerDevice("port1"), "null", `{"bus":"port1","driver":"virtio-scsi-pci","id":"disks","num_queues":1}`},
		{"disk", diskDevice("d", 7, true, backing{driver: "host_device", logical: 512, physical: 4096}),
			`{"cache":{"direct":true},"discard":"unmap","driver":"host_device","filename":"/dev/fdset/7","locking":"off",` +
				`"node-name":"block7","read-only":true}`,
			`{"bus":"disks.0","drive":"block7","driver":"scsi-hd","id":"d","logical_block_size":512,"lun":0,"physical_block_size":4096,` +
				`"scsi-id":7,"serial":"d","share-rw":true}`},
		{"disk of a file", diskDevice("d", 7, false, fileBacking),
			`{"cache":{"direct":false},"discard":"unmap","driver":"file","filename":"/dev/fdset/7","locking":"off",` +
				`"node-name":"block7","read-only":false}`,
			`{"bus":"disks.0","drive":"block7","driver":"scsi-hd","id":"d","logical_block_size":512,"lun":0,"physical_block_size":4096,` +
				`"scsi-id":7,"serial":"d","share-rw":true}`},
		{"network card", nicDevice("port3", hypervisor.NIC{ID: "d", MAC: mac, Tap: os.Stdin}), `{"fd":"d","id":"netdev-d","type":"tap"}`,
			`{"bus":"port3","driver":"virtio-net-pci","id":"d","mac":"02:00:00:00:00:01","netdev":"netdev-d","romfile":""}`},
		{"host's network", nicDevice("port3", hypervisor.NIC{ID: "d", MAC: mac, Subnet: netip.MustParsePrefix("10.0.2.0/24")}),
			`{"id":"netdev-d","ipv6":false,"net":"10.0.2.0/24","type":"user"}`,
			`{"bus":"port3","driver":"virtio-net-pci","id":"d","mac":"02:00:00:00:00:01","netdev":"netdev-d","romfile":""}`},
	} {
		backend := test.device.chardev
		switch {
		case test.device.netdev != nil:
			backend = test.device.netdev
		case test.device.blockdev != nil:
			backend = test.device.blockdev
		}
		for _, part := range []struct {
			got  map[string]any
			want string
		}{{backend, test.backend}, {test.device.arguments, test.arguments}} {
			if text, err := json.Marshal(part.got); err != nil || string(text) != part.want {
				t.Errorf("%s: got %s, want %s", test.name, text, part.want)
			}
		}
	}
}
