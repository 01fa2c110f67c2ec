package oci

import (
	"fmt"
	"maps"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The files that every container of a pod has.
const (
	fileHostname = "/etc/hostname"
	fileHosts    = "/etc/hosts"
	fileResolv   = "/etc/resolv.conf"
)

// HostFiles is what the host says of itself, for pods that say nothing of their own.
type HostFiles struct {
	Hostname string
	Hosts    string // the text of /etc/hosts
	Resolv   string // the text of /etc/resolv.conf
}

// NewPodOfConfig reads a pod that has no pause container from CRI's configuration. It is what containerd would make a pause container
// of, and of the pod's files, which it then makes itself. netns is the path of the pod's network namespace, empty if it has none; the
// annotations are added to those of the configuration. What a VM cannot do is an ErrNotImplemented.
func NewPodOfConfig(
	id string, config *cri.PodSandboxConfig, netns string, annotations map[string]string, host HostFiles,
) (*Pod, error) {
	linux := config.GetLinux()
	namespaces := linux.GetSecurityContext().GetNamespaceOptions()
	ofHost := namespaces.GetNetwork() == cri.NamespaceMode_NODE
	pod := &Pod{
		CgroupsPath: cgroupsPathIn(linux.GetCgroupParent(), id), NetNS: netns, NewNetNS: netns == "" && !ofHost,
		Hostname: config.GetHostname(), Annotations: map[string]string{},
		Files: podFiles(config, host),
	}
	maps.Copy(pod.Annotations, config.GetAnnotations())
	maps.Copy(pod.Annotations, annotations)
	switch users := namespaces.GetUsernsOptions(); users.GetMode() {
	case cri.NamespaceMode_POD:
		pod.UIDMappings, pod.GIDMappings = idMappings(users.GetUids()), idMappings(users.GetGids())
	case cri.NamespaceMode_CONTAINER, cri.NamespaceMode_TARGET:
		return nil, fmt.Errorf("a user namespace of mode %s: want that of the pod or of the node: %w", users.GetMode(), errdefs.ErrNotImplemented)
	}
	err := pod.hostNamespaces(namespaces.GetPid() == cri.NamespaceMode_NODE, namespaces.GetIpc() == cri.NamespaceMode_NODE)
	if err != nil {
		return nil, err
	}
	sysctls := map[string]string{}
	if !ofHost {
		// What containerd lets the containers of a pod do by default: they have a network of their own.
		sysctls["net.ipv4.ip_unprivileged_port_start"] = "0"
		sysctls[pingGroups] = allGroups
	}
	maps.Copy(sysctls, linux.GetSysctls())
	pod.NetSysctls, pod.Sysctls = splitSysctls(sysctls)
	resources := linux.GetResources()
	pod.Resources = newPodResources(resources.GetCpuPeriod(), resources.GetCpuQuota(), resources.GetCpuShares(),
		resources.GetMemoryLimitInBytes())
	return pod, nil
}

// cgroupsPathIn is the pod's place below the cgroup that the kubelet made for it: in the form of systemd's users if that is a slice.
func cgroupsPathIn(parent, id string) string {
	switch base := path.Base(parent); {
	case parent == "":
		return ""
	case strings.HasSuffix(base, ".slice"):
		return base + ":cri-containerd:" + id
	}
	return path.Join(parent, id)
}

func idMappings(mappings []*cri.IDMapping) []specs.LinuxIDMapping {
	var converted []specs.LinuxIDMapping
	for _, mapping := range mappings {
		converted = append(converted, specs.LinuxIDMapping{
			ContainerID: mapping.GetContainerId(), HostID: mapping.GetHostId(), Size: mapping.GetLength(),
		})
	}
	return converted
}

func podFiles(config *cri.PodSandboxConfig, host HostFiles) map[string]string {
	hostname := config.GetHostname()
	if hostname == "" {
		hostname = host.Hostname
	}
	files := map[string]string{fileHostname: hostname + "\n", fileHosts: host.Hosts, fileResolv: host.Resolv}
	if dns := config.GetDnsConfig(); dns != nil {
		files[fileResolv] = resolvConf(dns)
	}
	return files
}

// resolvConf writes what a resolver reads, see resolv.conf(5).
func resolvConf(dns *cri.DNSConfig) string {
	var text strings.Builder
	line := func(words ...string) { text.WriteString(strings.Join(words, " ") + "\n") }
	if searches := dns.GetSearches(); len(searches) > 0 {
		line(append([]string{"search"}, searches...)...)
	}
	for _, server := range dns.GetServers() {
		line("nameserver", server)
	}
	if options := dns.GetOptions(); len(options) > 0 {
		line(append([]string{"options"}, options...)...)
	}
	return text.String()
}
