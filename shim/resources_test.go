package shim

import (
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestUpdate(t *testing.T) {
	f := newFixture(t)
	container := f.create("c1")
	const url = "types.containerd.io/" + resourcesType
	update := func(id, url, value string) error {
		_, err := f.Update(t.Context(), &taskapi.UpdateTaskRequest{ID: id, Resources: &anypb.Any{TypeUrl: url, Value: []byte(value)}})
		return err
	}
	for _, test := range []struct {
		name, id, url, value string
		is                   func(error) bool
	}{
		{"unknown container", "c2", url, `{}`, errdefs.IsNotFound},
		{"foreign type", "c1", "types.containerd.io/opencontainers/runtime-spec/1/WindowsResources", `{}`, errdefs.IsInvalidArgument},
		{"no type", "c1", "", `{}`, errdefs.IsInvalidArgument},
		{"no JSON", "c1", url, `{"memory"`, errdefs.IsInvalidArgument},
		{"two values", "c1", url, `{} {}`, errdefs.IsInvalidArgument},
		{"another JSON", "c1", url, `{"memory":"much"}`, errdefs.IsInvalidArgument},
		{"null", "c1", url, `null`, errdefs.IsInvalidArgument},
	} {
		if err := update(test.id, test.url, test.value); !test.is(err) || test.id == "c1" && !strings.Contains(err.Error(), "c1") {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	if _, err := f.Update(t.Context(), &taskapi.UpdateTaskRequest{ID: "c1"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("nothing: %v", err)
	}
	if len(container.updates) > 0 {
		t.Errorf("the container was updated: %v", container.updates)
	}
	for _, url := range []string{url, resourcesType} {
		if err := update("c1", url, `{"memory":{"limit":5}}`); err != nil {
			t.Errorf("as %s: %v", url, err)
		}
	}
	if len(container.updates) != 2 || *container.updates[0].Memory.Limit != 5 {
		t.Errorf("updates %v", container.updates)
	}
	container.failUpdate = errdefs.ErrNotImplemented
	if err := update("c1", url, `{}`); !errdefs.IsNotImplemented(err) {
		t.Errorf("refused: %v", err)
	}
}

func FuzzResources(f *testing.F) {
	f.Add(resourcesType, []byte(`{"memory":{"limit":1},"cpu":{"quota":1,"period":2},"pids":{"limit":3},"unified":{"a.b":"c"}}`))
	f.Add("types.containerd.io/"+resourcesType, []byte(`null`))
	f.Fuzz(func(t *testing.T, url string, value []byte) {
		resources, err := decodeResources(&anypb.Any{TypeUrl: url, Value: value})
		if (resources == nil) != (err != nil) || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v, %v", resources, err)
		}
	})
}
