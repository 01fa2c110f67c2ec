package install

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// askTimeout bounds one question to containerd.
	askTimeout = 10 * time.Second
	// restartTimeout is how long a containerd that was restarted may take until it answers.
	restartTimeout = 60 * time.Second
)

var programVersion = regexp.MustCompile(`\bv?(\d+)\.\d+\.\d+\S*`)

// checkVersion refuses a containerd that limpet does not know. The text is what `containerd --version` prints, or CRI answers.
func checkVersion(text string) (version string, err error) {
	match := programVersion.FindStringSubmatch(text)
	if match == nil {
		return "", fmt.Errorf("containerd says %q, in which there is no version: %w", text, errdefs.ErrUnknown)
	}
	if major, err := strconv.Atoi(match[1]); err != nil || major != 2 {
		return "", fmt.Errorf("containerd has version %s, limpet needs 2.0 to 2.4: %w", match[0], errdefs.ErrFailedPrecondition)
	}
	return match[0], nil
}

// askVersion runs `containerd --version`.
func askVersion(ctx context.Context, host host, program string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	output, err := host.command(ctx, program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", program, err)
	}
	return checkVersion(string(output))
}

// askConfig checks that containerd itself, reading its configuration, finds limpet's handlers.
func askConfig(ctx context.Context, host host, program, path string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	output, err := host.command(ctx, program, "--config", path, "config", "dump").Output()
	if err != nil {
		return fmt.Errorf("%s --config %s config dump: %w", program, path, err)
	}
	return checkDump(output)
}

// checkDump looks for the handlers in what `containerd config dump` prints: one file, with all imports and all defaults.
func checkDump(text []byte) error {
	var dump mainFile
	if err := toml.Unmarshal(text, &dump); err != nil {
		return fmt.Errorf("containerd prints a configuration that is not valid: %w", err)
	}
	for _, handler := range handlers {
		kind := lookUp(dump.Plugins, criPlugins[dump.Version], "containerd", "runtimes", handler.Name, "runtime_type")
		if kind != runtimeType {
			return fmt.Errorf("containerd does not find handler %q in its configuration, version %d (is CRI a part of it?): %w",
				handler.Name, dump.Version, errdefs.ErrNotFound)
		}
	}
	return nil
}

// running is the containerd that serves CRI.
type running struct {
	version string
	knows   bool // all of limpet's handlers
}

// askRunning asks the containerd that listens at a socket (ErrUnavailable if nobody answers).
func askRunning(ctx context.Context, host host, socket string, timeout time.Duration, wait bool) (running, error) {
	path, err := host.path(socket)
	if err != nil {
		return running{}, err
	}
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return running{}, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	client := cri.NewRuntimeServiceClient(conn)
	version, err := client.Version(ctx, &cri.VersionRequest{}, grpc.WaitForReady(wait))
	if err != nil {
		return running{}, fmt.Errorf("nobody answers at %s: %w: %w", socket, err, errdefs.ErrUnavailable)
	}
	status, err := client.Status(ctx, &cri.StatusRequest{})
	if err != nil {
		return running{}, fmt.Errorf("ask containerd at %s for its status: %w", socket, err)
	}
	number, err := checkVersion(version.GetRuntimeVersion())
	return running{number, knowsAll(status.GetRuntimeHandlers())}, err
}

func knowsAll(known []*cri.RuntimeHandler) bool {
	names := map[string]bool{}
	for _, handler := range known {
		names[handler.GetName()] = true
	}
	for _, handler := range handlers {
		if !names[handler.Name] {
			return false
		}
	}
	return true
}
