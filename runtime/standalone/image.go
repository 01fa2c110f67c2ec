package standalone

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/egress"
)

// imageMemory is the least memory of a machine, in MiB, in which an image is unpacked: the guest uses up to half of it for files. The host
// gives what the guest touches.
const imageMemory = 1024

// workload names the overlay of the run's image in its guest.
const workload = "run"

// fetchImage has the guest pull the run's image, or read it from the host's file, and make a root file system of it.
func (r *Run) fetchImage(ctx context.Context, kind sourceKind) (image Image, rootfs string, err error) {
	agent, err := r.dialAgent(ctx)
	if err != nil {
		return image, "", err
	}
	defer agent.Close()
	name := r.options.Request.Source
	pull := func(ctx context.Context) error {
		request := protocol.PullRequest{Image: name}
		if platform := r.options.Request.Platform; platform != "" {
			request.OCIPlatform = &platform
		}
		_, err := agent.Do(ctx, request, r.pullProgress)
		return err
	}
	if kind == sourceImage {
		r.progress("connecting a network")
		err = r.sandbox.Borrow(ctx, func(ctx context.Context) error { return r.withNames(ctx, agent, pull) })
	} else {
		var place string
		if place, err = r.sandbox.AttachSource(name); err != nil {
			return image, "", err
		}
		name = string(kind) + ":" + place
		err = pull(ctx)
	}
	if err != nil {
		return image, "", fmt.Errorf("fetch %s: %w", r.options.Request.Source, err)
	}
	info, err := client.Get[protocol.ImageInfo](ctx, agent, protocol.QueryRequest{Image: name}, nil)
	if err != nil {
		return image, "", fmt.Errorf("fetch %s: %w", r.options.Request.Source, err)
	}
	overlay, err := client.Get[protocol.OverlayInfo](ctx, agent, protocol.PrepareOverlayRequest{Image: name, WorkloadID: workload}, nil)
	if err != nil {
		return image, "", fmt.Errorf("make a root file system of %s: %w", r.options.Request.Source, err)
	}
	return imageOf(info), overlay.RootfsPath, nil
}

// withNames has something done while the guest's own programs resolve names as this host does. With an egress policy they have the policy's
// resolver before and after: the policy is for the command, not for what fetches the image that the user has named.
func (r *Run) withNames(ctx context.Context, agent *client.Requests, do func(context.Context) error) error {
	path := r.options.Config.GuestData[resolvConfName]
	if !r.options.Request.restricted() || path == "" {
		return do(ctx)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("look for name servers: %w", err)
	}
	useNames := func(names string) error {
		_, err := agent.Do(ctx, protocol.FileWriteRequest{Path: "/etc/resolv.conf", Data: []byte(names)}, nil)
		if err != nil {
			return fmt.Errorf("tell the guest its name servers: %w", err)
		}
		return nil
	}
	if err := useNames(string(text)); err != nil {
		return err
	}
	if err := do(ctx); err != nil {
		return err
	}
	return useNames(egress.ForGuest(string(text)))
}

// imageOf is what of an image's description matters for a command.
func imageOf(info protocol.ImageInfo) Image {
	image := Image{Entrypoint: info.Entrypoint, Cmd: info.Cmd, Env: info.Env}
	if info.Workdir != nil {
		image.Workdir = *info.Workdir
	}
	if info.User != nil {
		image.User = *info.User
	}
	return image
}

// dialAgent opens a connection for machine requests to the sandbox's agent.
func (r *Run) dialAgent(ctx context.Context) (*client.Requests, error) {
	door := filepath.Join(runtime.StatePath(r.options.Config.StateDir, Namespace, r.options.Request.Name), runtime.AgentDoor)
	conn, err := new(net.Dialer).DialContext(ctx, "unix", door)
	if err != nil {
		return nil, fmt.Errorf("reach the agent: %w", err)
	}
	return client.NewRequests(conn, ""), nil
}

// pullProgress tells how far a pull is.
func (r *Run) pullProgress(step protocol.ProgressResponse) {
	text := step.Message
	if step.Layer != nil {
		text += " " + *step.Layer
	}
	if step.Percent != nil {
		text += fmt.Sprintf(" %d %%", *step.Percent)
	}
	r.progress(text)
}
