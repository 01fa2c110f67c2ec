package pod

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// mapped is a mapping of 65536 ids from 0 on.
func mapped(host uint32) []protocol.IDMapping {
	return []protocol.IDMapping{{ContainerID: 0, HostID: host, Size: 65536}}
}

func TestPlanRefuses(t *testing.T) {
	long := strings.Repeat("x", 1000)
	for name, test := range map[string]struct {
		pod  protocol.Pod
		want string
	}{
		"host name":       {protocol.Pod{Hostname: long}, "1000 bytes: want at most 64"},
		"many sysctls":    {protocol.Pod{Sysctls: make([]protocol.Pair, 65)}, "65 sysctls"},
		"long name":       {protocol.Pod{Sysctls: []protocol.Pair{{Name: long}}}, "more than 256 bytes"},
		"long value":      {protocol.Pod{Sysctls: []protocol.Pair{{Name: "kernel.sem", Value: long}}}, "more than 256 bytes"},
		"of the machine":  {protocol.Pod{Sysctls: []protocol.Pair{{Name: "vm.swappiness"}}}, `"vm.swappiness"`},
		"of the network":  {protocol.Pod{Sysctls: []protocol.Pair{{Name: "net.ipv4.ip_forward"}}}, `"net.ipv4.ip_forward"`},
		"the host name's": {protocol.Pod{Sysctls: []protocol.Pair{{Name: "kernel.hostname"}}}, `"kernel.hostname"`},
		"alike":           {protocol.Pod{Sysctls: []protocol.Pair{{Name: "kernel.shmmaximum"}}}, `"kernel.shmmaximum"`},
		"leads elsewhere": {protocol.Pod{Sysctls: []protocol.Pair{{Name: "fs/mqueue/../../vm/x"}}}, "fs/mqueue/.."},
		"users only":      {protocol.Pod{UIDMappings: mapped(1)}, "both or none"},
		"groups only":     {protocol.Pod{GIDMappings: mapped(1)}, "both or none"},
		"no root": {protocol.Pod{UIDMappings: []protocol.IDMapping{{ContainerID: 1, Size: 1}}, GIDMappings: mapped(1)},
			"users: nobody is mapped"},
		"a range of none":  {protocol.Pod{UIDMappings: mapped(1), GIDMappings: make([]protocol.IDMapping, 1)}, "groups: nobody is mapped"},
		"too many to know": {protocol.Pod{UIDMappings: make([]protocol.IDMapping, 341), GIDMappings: mapped(1)}, "341 mappings"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := newPlan(test.pod); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v", err)
			}
		})
	}
}
