package oci

import (
	"encoding/json"
	"reflect"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// rule is one of the device cgroup; a number of -1 is any.
func rule(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	rule := specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Access: access}
	if major >= 0 {
		rule.Major = &major
	}
	if minor >= 0 {
		rule.Minor = &minor
	}
	return rule
}

func TestDisks(t *testing.T) {
	deny := rule(false, "a", -1, -1, "rwm")
	sda := specs.LinuxDevice{Path: "/dev/data", Type: "b", Major: 8, Minor: 0}
	null := specs.LinuxDevice{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}
	for _, test := range []struct {
		name    string
		devices []specs.LinuxDevice
		rules   []specs.LinuxDeviceCgroup
		disks   []Disk
		// What the guest is told when the first disk is 8:16 there, and the second 8:0.
		placed []specs.LinuxDevice
		left   []specs.LinuxDeviceCgroup
	}{
		{"one", []specs.LinuxDevice{null, sda}, []specs.LinuxDeviceCgroup{deny, rule(true, "b", 8, 0, "rwm")},
			[]Disk{{Major: 8, Path: "/dev/data"}},
			[]specs.LinuxDevice{null, {Path: "/dev/data", Type: "b", Major: 8, Minor: 16}},
			[]specs.LinuxDeviceCgroup{deny, rule(true, "b", 8, 16, "rwm")}},
		{"for reading", []specs.LinuxDevice{sda}, []specs.LinuxDeviceCgroup{deny, rule(true, "b", 8, 0, "r")},
			[]Disk{{Major: 8, Path: "/dev/data", ReadOnly: true}},
			[]specs.LinuxDevice{{Path: "/dev/data", Type: "b", Major: 8, Minor: 16}},
			[]specs.LinuxDeviceCgroup{deny, rule(true, "b", 8, 16, "r")}},
		{"without a rule", []specs.LinuxDevice{sda}, nil, []Disk{{Major: 8, Path: "/dev/data", ReadOnly: true}},
			[]specs.LinuxDevice{{Path: "/dev/data", Type: "b", Major: 8, Minor: 16}}, nil},
		{"a later rule", []specs.LinuxDevice{sda}, []specs.LinuxDeviceCgroup{rule(true, "b", 8, -1, "rw"), rule(false, "b", 8, 0, "w")},
			[]Disk{{Major: 8, Path: "/dev/data", ReadOnly: true}},
			[]specs.LinuxDevice{{Path: "/dev/data", Type: "b", Major: 8, Minor: 16}}, []specs.LinuxDeviceCgroup{rule(false, "b", 8, 16, "w")}},
		{"two that change places, one of them twice",
			[]specs.LinuxDevice{sda, {Path: "/dev/b", Type: "b", Major: 8, Minor: 16}, {Path: "/dev/again", Type: "b", Major: 8}},
			[]specs.LinuxDeviceCgroup{deny, rule(true, "b", 8, 0, "rw"), rule(true, "b", 8, 16, "rw")},
			[]Disk{{Major: 8, Path: "/dev/data"}, {Major: 8, Minor: 16, Path: "/dev/b"}},
			[]specs.LinuxDevice{{Path: "/dev/data", Type: "b", Major: 8, Minor: 16}, {Path: "/dev/b", Type: "b", Major: 8},
				{Path: "/dev/again", Type: "b", Major: 8, Minor: 16}},
			[]specs.LinuxDeviceCgroup{deny, rule(true, "b", 8, 16, "rw"), rule(true, "b", 8, 0, "rw")}},
		{"rules about others' devices", []specs.LinuxDevice{null},
			[]specs.LinuxDeviceCgroup{deny, rule(true, "b", 8, 0, "rw"), rule(true, "b", 8, -1, "rw"), rule(true, "b", -1, -1, "m"),
				rule(true, "c", 1, 3, "rw")},
			nil, []specs.LinuxDevice{null},
			[]specs.LinuxDeviceCgroup{deny, rule(true, "b", -1, -1, "m"), rule(true, "c", 1, 3, "rw")}},
		{"privileged, with a device", []specs.LinuxDevice{sda}, []specs.LinuxDeviceCgroup{rule(true, "a", -1, -1, "rwm")},
			[]Disk{{Major: 8, Path: "/dev/data"}},
			[]specs.LinuxDevice{{Path: "/dev/data", Type: "b", Major: 8, Minor: 16}}, []specs.LinuxDeviceCgroup{rule(true, "a", -1, -1, "rwm")}},
		{"privileged, with all of the host's", []specs.LinuxDevice{null, sda}, []specs.LinuxDeviceCgroup{rule(true, "a", -1, -1, "rwm")}, nil,
			[]specs.LinuxDevice{null}, []specs.LinuxDeviceCgroup{rule(true, "a", -1, -1, "rwm")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := minimal()
			spec.Linux.Devices = test.devices
			spec.Linux.Resources = &specs.LinuxResources{Devices: test.rules}
			plan, err := NewPlan(spec, Options{ContainerID: "c1"})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(plan.Disks, test.disks) {
				t.Errorf("got %+v, want %+v", plan.Disks, test.disks)
			}
			if HasDisks(spec) != (len(test.disks) > 0) {
				t.Error("HasDisks says otherwise")
			}
			plan.PlaceDisks([]Number{{8, 16}, {8, 0}}[:len(plan.Disks)])
			got, _ := json.Marshal([]any{plan.Spec.Linux.Devices, plan.Spec.Linux.Resources.Devices})
			want, _ := json.Marshal([]any{test.placed, test.left})
			if string(got) != string(want) {
				t.Errorf("the guest is told\n%s\nwant\n%s", got, want)
			}
		})
	}
}
