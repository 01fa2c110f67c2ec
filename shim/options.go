package shim

import (
	"fmt"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// RuntimeOptions is what limpet takes from the options that containerd passes for a runtime.
type RuntimeOptions struct {
	ConfigPath string // a configuration file, in place of the default one
	ConfigBody []byte // the text of one, used if there is no path
	ShimCgroup string // the cgroup in which the server runs; empty: containerd's own
}

// decodeOptions reads the options of a task. CRI sends runtimeoptions.v1.Options for a runtime that it does not know;
// ctr and nerdctl send runc's, of which the cgroup of the shim applies to a microVM. Any other type is an invalid argument.
func decodeOptions(options *anypb.Any) (RuntimeOptions, error) {
	if options.GetTypeUrl() == "" {
		return RuntimeOptions{}, nil
	}
	var cri runtimeoptions.Options
	var runc runcoptions.Options
	switch name := options.MessageName(); name {
	case proto.MessageName(&cri):
		if err := proto.Unmarshal(options.GetValue(), &cri); err != nil {
			return RuntimeOptions{}, fmt.Errorf("runtime options %s: %w: %w", name, err, errdefs.ErrInvalidArgument)
		}
		return RuntimeOptions{ConfigPath: cri.GetConfigPath(), ConfigBody: cri.GetConfigBody()}, nil
	case proto.MessageName(&runc):
		if err := proto.Unmarshal(options.GetValue(), &runc); err != nil {
			return RuntimeOptions{}, fmt.Errorf("runtime options %s: %w: %w", name, err, errdefs.ErrInvalidArgument)
		}
		return RuntimeOptions{ShimCgroup: runc.GetShimCgroup()}, nil
	}
	return RuntimeOptions{}, fmt.Errorf("runtime options of type %q are not known: use %s or %s: %w", options.GetTypeUrl(),
		proto.MessageName(&cri), proto.MessageName(&runc), errdefs.ErrInvalidArgument)
}
