package runtime

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestFind(t *testing.T) {
	box := func(namespace, id string, containers ...string) SandboxInfo {
		info := SandboxInfo{Namespace: namespace, ID: id}
		for _, container := range containers {
			id, name, _ := strings.Cut(container, " ")
			info.Containers = append(info.Containers, ContainerInfo{ID: id, Name: name})
		}
		return info
	}
	sandboxes := []SandboxInfo{
		box("default", "web", "web", "web-helper"),
		box("default", "web2", "web2"),
		box("k8s.io", "4f2a", "77c1 client", "77d2 server"),
		box("k8s.io", "9e3b", "8811 client"),
		box("other", "4f2a", "lonely"),
		box("other", "empty"),
	}
	for _, test := range []struct {
		namespace, reference string
		want                 string // NAMESPACE/SANDBOX/CONTAINER, or what the error says
	}{
		{"", "web", "default/web/web"},
		{"", "web2", "default/web2/web2"},
		{"", "web-", "default/web/web-helper"},
		{"", "web-helper", "default/web/web-helper"},
		{"", "web/web-helper", "default/web/web-helper"},
		{"", "web/w", `"w" can mean container web/web of namespace default or container web/web-helper of namespace default`},
		{"", "we", `"we" can mean sandbox web of namespace default or sandbox web2 of namespace default or container web/web-helper`},
		{"", "4f2a", "sandbox 4f2a of namespace k8s.io or sandbox 4f2a of namespace other"},
		{"k8s.io", "4f2a", "k8s.io/4f2a/"},
		{"k8s.io", "4f/77d", "k8s.io/4f2a/77d2"},
		{"k8s.io", "4f/server", "k8s.io/4f2a/77d2"},
		{"", "9e/client", "k8s.io/9e3b/8811"},
		{"", "9", "k8s.io/9e3b/8811"},
		{"", "77c", "k8s.io/4f2a/77c1"},
		{"", "client", `no sandbox or container "client"`},
		{"", "e", "other/empty/"},
		{"", "empty/x", `no sandbox or container "x"`},
		{"default", "empty", `no sandbox or container "empty"`},
		{"", "", "no sandbox"},
		{"", "web/", "no sandbox"},
		{"", "/web", "no sandbox"},
	} {
		found, err := Find(sandboxes, test.namespace, test.reference)
		got := found.Namespace + "/" + found.ID + "/"
		if found.Container != nil {
			got += found.Container.ID
		}
		if err != nil {
			got = err.Error()
			if errdefs.IsNotFound(err) == errdefs.IsInvalidArgument(err) {
				t.Errorf("%s %q: %v is of no type", test.namespace, test.reference, err)
			}
		}
		if err == nil && got != test.want || !strings.Contains(got, test.want) {
			t.Errorf("%s %q: got %s, want %s", test.namespace, test.reference, got, test.want)
		}
	}
}
