package shim

import (
	"fmt"
	"io"
	"runtime/debug"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// RuntimeName is the name under which containerd finds the shim's binary.
const RuntimeName = "io.containerd.limpet.v2"

// info is the flag that asks what the runtime can do: options come on stdin and the answer goes to stdout, both protobuf.
func info(stdin io.Reader, stdout io.Writer) error {
	data, err := readAtMost(stdin)
	if err != nil {
		return err
	}
	answer := &types.RuntimeInfo{Name: RuntimeName}
	if len(data) > 0 {
		answer.Options = &anypb.Any{}
		if err := proto.Unmarshal(data, answer.Options); err != nil {
			return fmt.Errorf("stdin of -info is not runtime options: %w", err)
		}
		if _, err := decodeOptions(answer.Options); err != nil {
			return err
		}
	}
	version, revision := buildVersion()
	answer.Version = &types.RuntimeVersion{Version: version, Revision: revision}
	if answer.Features, err = typeurl.MarshalAnyToProto(runtimeFeatures()); err != nil {
		return fmt.Errorf("features: %w", err)
	}
	encoded, err := proto.Marshal(answer)
	if err != nil {
		return err
	}
	_, err = stdout.Write(encoded)
	return err
}

// mountOptions are those that a container's mounts may have beside what is data for their file systems. CRI takes "rro" for recursive
// read-only mounts.
var mountOptions = []string{
	"async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "idmap", "noatime", "nodev", "nodiratime", "noexec",
	"norelatime", "nostrictatime", "nosuid", "private", "rbind", "relatime", "ridmap", "ro", "rprivate", "rro", "rslave", "rw", "slave",
	"strictatime", "suid", "sync",
}

// The actions and operators of seccomp profiles, which are the guest's affair but for SCMP_ACT_NOTIFY: that is answered by a program of
// the host.
var (
	seccompActions = []string{
		"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE",
		"SCMP_ACT_TRAP",
	}
	seccompOperators = []string{
		"SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
	}
)

// runtimeFeatures says what containerd and its clients ask for before they pass it on. User namespaces of pods need mounts with their own
// id mapping, too, which the host makes. The guest has no security modules, so that it knows no profile of the host's.
func runtimeFeatures() *features.Features {
	yes, no := true, false
	return &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions:  mountOptions,
		Linux: &features.Linux{
			Namespaces:      []string{"cgroup", "ipc", "mount", "network", "pid", "user", "uts"},
			Seccomp:         &features.Seccomp{Enabled: &yes, Actions: seccompActions, Operators: seccompOperators},
			Apparmor:        &features.Apparmor{Enabled: &no},
			Selinux:         &features.Selinux{Enabled: &no},
			IntelRdt:        &features.IntelRdt{Enabled: &no},
			NetDevices:      &features.NetDevices{Enabled: &no},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
		},
	}
}

// version is the flag that tells people which limpet this is.
func version(program string, stdout io.Writer) error {
	number, revision := buildVersion()
	_, err := fmt.Fprintf(stdout, "%s:\n  Version:  %s\n  Revision: %s\n", program, number, revision)
	return err
}

// buildVersion returns the module's version and the commit, as the go command recorded them.
func buildVersion() (version, revision string) {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown", ""
	}
	for _, setting := range build.Settings {
		if setting.Key == "vcs.revision" {
			revision = setting.Value
		}
	}
	return build.Main.Version, revision
}
