package cgroup

import (
	"testing"

	"github.com/containerd/errdefs"
)

func TestPath(t *testing.T) {
	for _, test := range []struct{ cgroupsPath, want string }{
		{"", ""},
		{"/", ""},
		{"/default/web", "/default/web"},
		{"default/web", "/default/web"},
		{"/kubepods/burstable/pod1/abc", "/kubepods/burstable/pod1/abc"},
		{"/default//web/", "/default/web"},
		{"../../etc", "/etc"},
		{"/default/../..", ""},
		{"/a:b", "/a:b"},
		{"/a:b:c:d", "/a:b:c:d"},

		{"system.slice:nerdctl:abc", "/system.slice/nerdctl-abc.scope"},
		{":nerdctl:abc", "/system.slice/nerdctl-abc.scope"},
		{"-.slice:nerdctl:abc", "/nerdctl-abc.scope"},
		{"kubepods-burstable-pod1_2.slice:cri-containerd:abc",
			"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-abc.scope"},
		{"a.slice::abc", "/a.slice/abc.scope"},
		{"a.slice:ignored:b.slice", "/a.slice/b.slice"},
	} {
		got, err := Path(test.cgroupsPath)
		if got != test.want || err != nil {
			t.Errorf("%q: got %q, %v, want %q", test.cgroupsPath, got, err, test.want)
		}
	}
	for _, wrong := range []string{
		"a:b:c", "a/b.slice:x:c", "a--b.slice:x:c", "-a.slice:x:c", "a-.slice:x:c", ".slice:x:c",
		"a.slice::", "a.slice:x:", "a.slice:x:../../etc", "a.slice:../x:c",
	} {
		if got, err := Path(wrong); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %q, %v", wrong, got, err)
		}
	}
}
