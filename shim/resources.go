package shim

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

// resourcesType is how containerd's clients name the resources of the OCI runtime specification. A host may come before it.
const resourcesType = "opencontainers/runtime-spec/1/LinuxResources"

// decodeResources reads the resources of an Update: JSON. What is not of that type, or broken, is an ErrInvalidArgument.
func decodeResources(packed *anypb.Any) (*specs.LinuxResources, error) {
	url := packed.GetTypeUrl()
	if url != resourcesType && !strings.HasSuffix(url, "/"+resourcesType) {
		return nil, fmt.Errorf("resources of type %q: want %s: %w", url, resourcesType, errdefs.ErrInvalidArgument)
	}
	var resources *specs.LinuxResources
	if err := json.Unmarshal(packed.GetValue(), &resources); err != nil {
		return nil, fmt.Errorf("resources: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if resources == nil {
		return nil, fmt.Errorf("resources: none: %w", errdefs.ErrInvalidArgument)
	}
	return resources, nil
}
