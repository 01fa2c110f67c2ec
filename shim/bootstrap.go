package shim

import (
	"encoding/json"
	"fmt"
	"io"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// maxBootstrapInput bounds what the verbs read from stdin. The largest part of it is a configuration text in the runtime options.
const maxBootstrapInput = 10 << 20

// bootstrapInput is what `start` reads from stdin. containerd 2.3 and later sends BootstrapParams; before that, nothing or the options.
type bootstrapInput struct {
	socketDir string // where the socket goes; empty: the default
	options   *anypb.Any
}

// parseBootstrapInput reads the stdin of `start`. The two messages decode as each other, as both begin with two strings,
// so BootstrapParams are taken for such only if they name the identity that is on the command line too.
func parseBootstrapInput(data []byte, namespace, id string) (bootstrapInput, error) {
	if len(data) == 0 {
		return bootstrapInput{}, nil
	}
	var params bootstrap.BootstrapParams
	if proto.Unmarshal(data, &params) == nil && params.GetInstanceID() == id && params.GetNamespace() == namespace {
		input := bootstrapInput{socketDir: params.GetSocketDir()}
		for _, extension := range params.GetExtensions() {
			// Extensions are of any kind; only the runtime's options are of use here, and they are checked where they are used.
			if _, err := decodeOptions(extension.GetValue()); err == nil {
				input.options = extension.GetValue()
			}
		}
		return input, nil
	}
	var options anypb.Any
	if err := proto.Unmarshal(data, &options); err != nil {
		return bootstrapInput{}, fmt.Errorf("stdin of start is neither bootstrap parameters nor runtime options: %w", err)
	}
	return bootstrapInput{options: &options}, nil
}

// taskServiceVersion tells containerd that the address accepts more than one Create: containers of a sandbox share it.
const taskServiceVersion = 3

// bootstrapAnswer is what `start` writes to stdout, as JSON. Daemons from 2.3 on try protobuf first, which this text never is (its first
// byte opens a group that nothing closes), then JSON; the ones before read JSON only. So it is right for all of them.
type bootstrapAnswer struct {
	Version  int    `json:"version"`
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
}

func writeBootstrapAnswer(w io.Writer, address string) error {
	data, err := json.Marshal(bootstrapAnswer{Version: taskServiceVersion, Address: address, Protocol: "ttrpc"})
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// readAtMost reads all of r, or fails if that is more than maxBootstrapInput bytes.
func readAtMost(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxBootstrapInput+1))
	if err != nil {
		return nil, fmt.Errorf("read stdin: %w", err)
	}
	if len(data) > maxBootstrapInput {
		return nil, fmt.Errorf("stdin is larger than %d bytes", maxBootstrapInput)
	}
	return data, nil
}
