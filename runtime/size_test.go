package runtime

import (
	"math"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/oci"
)

func ptr[T any](value T) *T { return &value }

func TestDemandOf(t *testing.T) {
	cpu := func(cpu specs.LinuxCPU) *specs.LinuxResources { return &specs.LinuxResources{CPU: &cpu} }
	memory := func(limit int64) *specs.LinuxResources {
		return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	}
	for _, test := range []struct {
		name      string
		resources *specs.LinuxResources
		want      demand
	}{
		{"none", nil, demand{}},
		{"empty", &specs.LinuxResources{CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{}}, demand{}},
		{"four CPUs", cpu(specs.LinuxCPU{Quota: ptr[int64](400000), Period: ptr[uint64](100000)}), demand{milliCPUs: 4000}},
		{"half a CPU", cpu(specs.LinuxCPU{Quota: ptr[int64](5000), Period: ptr[uint64](10000)}), demand{milliCPUs: 500}},
		{"no period", cpu(specs.LinuxCPU{Quota: ptr[int64](150000), Period: ptr[uint64](0)}), demand{milliCPUs: 1500}},
		{"no quota", cpu(specs.LinuxCPU{Quota: ptr[int64](-1), Period: ptr[uint64](100000)}), demand{}},
		{"endless quota", cpu(specs.LinuxCPU{Quota: ptr[int64](math.MaxInt64), Period: ptr[uint64](1)}), demand{milliCPUs: 64000}},
		{"a set", cpu(specs.LinuxCPU{Cpus: "0-2, 7"}), demand{milliCPUs: 4000}},
		{"a quota in a set", cpu(specs.LinuxCPU{Quota: ptr[int64](100000), Cpus: "0-2"}), demand{milliCPUs: 1000}},
		{"a broken set", cpu(specs.LinuxCPU{Cpus: "a,3-1,-,5"}), demand{milliCPUs: 1000}},
		{"an endless set", cpu(specs.LinuxCPU{Cpus: "0-65535,0-65535"}), demand{milliCPUs: 64000}},
		{"memory", memory(1 << 30), demand{memory: 1 << 30}},
		{"memory without limit", memory(-1), demand{}},
	} {
		if got := demandOf(test.resources); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestPodDemand(t *testing.T) {
	for _, test := range []struct {
		name string
		cpu  specs.LinuxCPU
		want uint64
	}{
		{"nothing", specs.LinuxCPU{}, 0},
		{"a quota", specs.LinuxCPU{Quota: ptr[int64](50000), Shares: ptr[uint64](2048)}, 500},
		{"a request", specs.LinuxCPU{Shares: ptr[uint64](1536)}, 1500},
		{"an endless request", specs.LinuxCPU{Shares: ptr[uint64](math.MaxUint64)}, 64000},
	} {
		if got := podDemand(&oci.Pod{Resources: specs.LinuxResources{CPU: &test.cpu}}); got != (demand{milliCPUs: test.want}) {
			t.Errorf("%s: %+v, want %d", test.name, got, test.want)
		}
	}
}

func TestNewFrame(t *testing.T) {
	for _, test := range []struct {
		name                 string
		vm                   config.VM
		floor                demand
		hostCPUs, hostMemory int
		want                 frame
	}{
		{"of the host", config.VM{VCPUs: 1, MemoryMiB: 256}, demand{}, 8, 4000, frame{1, 256, 8, 4000, 256}},
		{"a floor", config.VM{VCPUs: 1, MemoryMiB: 256}, demand{1001, 1<<30 + 1}, 8, 4000, frame{2, 1138, 8, 4000, 256}},
		{"a low floor", config.VM{VCPUs: 2, MemoryMiB: 256}, demand{1000, 1 << 20}, 8, 4000, frame{2, 256, 8, 4000, 256}},
		{"a floor too high", config.VM{VCPUs: 1, MemoryMiB: 256}, demand{9000, math.MaxUint64}, 8, 4000, frame{8, 4000, 8, 4000, 256}},
		{"of a small host", config.VM{VCPUs: 1, MemoryMiB: 256}, demand{}, 1, 200, frame{1, 256, 4, 256, 256}},
		{"of a huge host", config.VM{VCPUs: 1, MemoryMiB: 256}, demand{}, 512, 4 << 20, frame{1, 256, 64, 512 << 10, 256}},
		{"configured", config.VM{VCPUs: 1, MemoryMiB: 256, MaxVCPUs: 2, MaxMemoryMiB: 1024}, demand{}, 8, 4000, frame{1, 256, 2, 1024, 256}},
		{"starts with more", config.VM{VCPUs: 3, MemoryMiB: 2048, MaxVCPUs: 2, MaxMemoryMiB: 1024}, demand{}, 8, 4000,
			frame{3, 2048, 3, 2048, 2048}},
	} {
		if got := newFrame(test.vm, test.floor, test.hostCPUs, test.hostMemory); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
	if got, err := hostFrame(config.Default().VM, demand{}); err != nil || got.maxVCPUs < 4 || got.maxMemory < 256 {
		t.Errorf("of this host: %+v, %v", got, err)
	}
}

func TestBareFrame(t *testing.T) {
	for _, test := range []struct{ frame, want frame }{
		{frame{1, 256, 4, 4000, 256}, frame{1, 256, 4, 4000, 256}},
		{frame{1, 128, 4, 4000, 128}, frame{1, 128, 4, 4000, 128}},
		{frame{2, 2048, 4, 4000, 2048}, frame{2, 256, 4, 4000, 2048}},
	} {
		got := test.frame.bare()
		if got != test.want {
			t.Errorf("%+v: %+v, want %+v", test.frame, got, test.want)
		}
		// With a container it has what the other starts with, and a little more, which describes what is added.
		size, _ := got.size(slices.Values([]demand{{}}))
		if has := got.memory + size.addedMemory; has < test.frame.memory || size.vcpus != test.frame.vcpus {
			t.Errorf("%+v: grows to %+v", test.frame, size)
		}
	}
}

func TestFrameSize(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	standard := frame{vcpus: 1, memory: 256, maxVCPUs: 4, maxMemory: 8192, shared: 256}
	for _, test := range []struct {
		name    string
		frame   frame
		demands []demand
		want    size
		cut     bool
	}{
		{"nobody", standard, nil, size{1, 0}, false},
		{"no limits", standard, []demand{{}, {}}, size{1, 0}, false},
		{"four CPUs and 2 GB", standard, []demand{{4000, 2 * gib}}, size{4, 1920}, false},
		{"fits into the start", standard, []demand{{1000, 160 * mib}}, size{1, 0}, false},
		{"a byte more", standard, []demand{{1001, 160*mib + 1}}, size{2, 128}, false},
		{"halves", standard, []demand{{500, 0}, {500, 0}, {1, 0}}, size{2, 0}, false},
		{"beside one without a limit", standard, []demand{{0, 0}, {0, 128 * mib}}, size{1, 256}, false},
		{"the sum", standard, []demand{{0, gib}, {0, gib}}, size{1, 1920}, false},
		{"too many CPUs", standard, []demand{{5000, 0}}, size{4, 0}, true},
		{"too much memory", standard, []demand{{0, 16 * gib}}, size{1, 8192 - 256}, true},
		{"endless", standard, []demand{{math.MaxUint64 / 4, math.MaxUint64}, {0, math.MaxUint64}}, size{4, 8192 - 256}, true},
		{"no room", frame{1, 256, 1, 256, 256}, []demand{{2000, gib}}, size{1, 0}, true},
		{"room for less than a step", frame{1, 256, 1, 300, 256}, []demand{{0, gib}}, size{1, 0}, true},
		{"a tiny start", frame{1, 64, 1, 1024, 64}, []demand{{0, 0}}, size{1, 128}, false},
		{"within the floor", frame{2, 1138, 4, 8192, 256}, []demand{{1001, gib}}, size{2, 0}, false},
		{"beside the floor", frame{2, 1138, 4, 8192, 256}, []demand{{1001, gib}, {0, 0}}, size{2, 256}, false},
	} {
		got, cut := test.frame.size(slices.Values(test.demands))
		if got != test.want || cut != test.cut {
			t.Errorf("%s: %+v, cut %t; want %+v, %t", test.name, got, cut, test.want, test.cut)
		}
	}
}
