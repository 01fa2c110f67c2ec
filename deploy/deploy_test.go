package deploy

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// The parts of Kubernetes' objects that the manifests use. A key that is not here is an error, so one that is misspelt is, too.
type (
	object struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			Name, Namespace     string
			Labels, Annotations map[string]string
		} `json:"metadata"`
	}
	runtimeClass struct {
		object
		Handler  string `json:"handler"`
		Overhead struct {
			PodFixed map[string]string `json:"podFixed"`
		} `json:"overhead"`
		Scheduling struct {
			NodeSelector map[string]string `json:"nodeSelector"`
		} `json:"scheduling"`
	}
	pod struct {
		object
		Spec podSpec `json:"spec"`
	}
	daemonSet struct {
		object
		Spec struct {
			Selector struct {
				MatchLabels map[string]string `json:"matchLabels"`
			} `json:"selector"`
			UpdateStrategy struct {
				RollingUpdate struct {
					MaxUnavailable int `json:"maxUnavailable"`
				} `json:"rollingUpdate"`
			} `json:"updateStrategy"`
			Template struct {
				Metadata struct {
					Labels map[string]string `json:"labels"`
				} `json:"metadata"`
				Spec podSpec `json:"spec"`
			} `json:"template"`
		} `json:"spec"`
	}
	podSpec struct {
		RuntimeClassName             string                      `json:"runtimeClassName"`
		RestartPolicy                string                      `json:"restartPolicy"`
		NodeSelector                 map[string]string           `json:"nodeSelector"`
		Tolerations                  []struct{ Operator string } `json:"tolerations"`
		PriorityClassName            string                      `json:"priorityClassName"`
		AutomountServiceAccountToken *bool                       `json:"automountServiceAccountToken"`
		HostPID                      bool                        `json:"hostPID"`
		InitContainers               []container                 `json:"initContainers"`
		Containers                   []container                 `json:"containers"`
		Volumes                      []volume                    `json:"volumes"`
	}
	container struct {
		Name      string   `json:"name"`
		Image     string   `json:"image"`
		Command   []string `json:"command"`
		Args      []string `json:"args"`
		Resources struct {
			Limits map[string]string `json:"limits"`
		} `json:"resources"`
		SecurityContext struct {
			Privileged               bool  `json:"privileged"`
			AllowPrivilegeEscalation *bool `json:"allowPrivilegeEscalation"`
			ReadOnlyRootFilesystem   bool  `json:"readOnlyRootFilesystem"`
			RunAsNonRoot             bool  `json:"runAsNonRoot"`
			RunAsUser                int64 `json:"runAsUser"`
			Capabilities             struct {
				Drop []string `json:"drop"`
			} `json:"capabilities"`
		} `json:"securityContext"`
		VolumeMounts []struct {
			Name      string `json:"name"`
			MountPath string `json:"mountPath"`
		} `json:"volumeMounts"`
	}
	volume struct {
		Name     string `json:"name"`
		HostPath *struct {
			Path string `json:"path"`
			Type string `json:"type"`
		} `json:"hostPath"`
		EmptyDir *struct{} `json:"emptyDir"`
	}
)

// load reads the only document of a manifest.
func load[T any](t *testing.T, file, apiVersion, kind string) T {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "\n---") {
		t.Fatalf("%s has more than one document", file)
	}
	var head struct{ APIVersion, Kind string }
	if err := yaml.Unmarshal(text, &head); err != nil || head.APIVersion != apiVersion || head.Kind != kind {
		t.Fatalf("%s: got %+v, %v", file, head, err)
	}
	var value T
	if err := yaml.UnmarshalStrict(text, &value); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return value
}

var quantity = regexp.MustCompile(`^[1-9][0-9]*(m|Ki|Mi|Gi)?$`)

// TestRuntimeClass: the class is of the handler that limpet install makes, and says what a pod takes.
func TestRuntimeClass(t *testing.T) {
	class := load[runtimeClass](t, "runtimeclass.yaml", "node.k8s.io/v1", "RuntimeClass")
	if class.Handler != "limpet" || class.Metadata.Namespace != "" {
		t.Errorf("got %+v", class)
	}
	if got := slices.Sorted(maps.Keys(class.Overhead.PodFixed)); !slices.Equal(got, []string{"cpu", "memory"}) {
		t.Errorf("overhead of %q", got)
	}
	for resource, amount := range class.Overhead.PodFixed {
		if !quantity.MatchString(amount) {
			t.Errorf("overhead %s: %q", resource, amount)
		}
	}
}

// TestExample: the pod asks for the class, and its containers for volumes that there are.
func TestExample(t *testing.T) {
	class := load[runtimeClass](t, "runtimeclass.yaml", "node.k8s.io/v1", "RuntimeClass")
	example := load[pod](t, "example.yaml", "v1", "Pod")
	if example.Spec.RuntimeClassName != class.Metadata.Name || len(example.Spec.Containers) == 0 {
		t.Errorf("got %+v", example.Spec)
	}
	checkPod(t, example.Spec)
}

// TestInstaller: it runs where pods of the class can run, with the host's root where limpet install is told to look.
func TestInstaller(t *testing.T) {
	class := load[runtimeClass](t, "runtimeclass.yaml", "node.k8s.io/v1", "RuntimeClass")
	set := load[daemonSet](t, "installer.yaml", "apps/v1", "DaemonSet")
	spec := set.Spec.Template.Spec
	checkPod(t, spec)
	if !maps.Equal(set.Spec.Selector.MatchLabels, set.Spec.Template.Metadata.Labels) {
		t.Errorf("selects %v, makes %v", set.Spec.Selector.MatchLabels, set.Spec.Template.Metadata.Labels)
	}
	for label, value := range class.Scheduling.NodeSelector {
		if spec.NodeSelector[label] != value {
			t.Errorf("runs on nodes with %v, pods of the class need %s=%s", spec.NodeSelector, label, value)
		}
	}
	if len(spec.InitContainers) != 1 {
		t.Fatalf("got %+v", spec.InitContainers)
	}
	install := spec.InitContainers[0]
	if len(install.Args) < 3 || !slices.Equal(install.Args[:2], []string{"install", "--root"}) || !install.SecurityContext.Privileged {
		t.Fatalf("got %+v", install)
	}
	if mount := install.VolumeMounts[0]; mount.MountPath != install.Args[2] || spec.Volumes[0].HostPath.Path != "/" {
		t.Errorf("works on %s, the host's root is at %+v", install.Args[2], mount)
	}
}

// checkPod checks that names are given once and that volumes that are mounted exist.
func checkPod(t *testing.T, spec podSpec) {
	t.Helper()
	seen := map[string]bool{}
	volumes := map[string]bool{}
	for _, volume := range spec.Volumes {
		volumes[volume.Name] = (volume.HostPath == nil) != (volume.EmptyDir == nil)
	}
	for _, container := range slices.Concat(spec.InitContainers, spec.Containers) {
		if container.Name == "" || seen[container.Name] || container.Image == "" {
			t.Errorf("container %+v", container)
		}
		seen[container.Name] = true
		for _, mount := range container.VolumeMounts {
			if !volumes[mount.Name] || !strings.HasPrefix(mount.MountPath, "/") {
				t.Errorf("container %s mounts %+v", container.Name, mount)
			}
		}
		for resource, amount := range container.Resources.Limits {
			if !quantity.MatchString(amount) {
				t.Errorf("container %s has %q of %s", container.Name, amount, resource)
			}
		}
	}
}
