package requests

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/agent/container"
	"github.com/limpet-run/limpet/guest/protocol"
)

// maxUserFile is how much of an image's /etc/passwd and /etc/group is read, in bytes.
const maxUserFile = 1 << 20

// run runs a command in a container of an image that was pulled.
func (c *conn) run(ctx context.Context, r protocol.RunRequest) (protocol.AgentResponse, error) {
	p, err := newCommand(r.Interactive, r.TTY, r.Background || r.Detached, r.TimeoutMS)
	if err != nil {
		return nil, err
	}
	for _, mount := range r.Mounts {
		if _, err := planMount(mount); err != nil {
			return nil, err
		}
		if _, err := os.Stat(mount.Tag); err != nil {
			return nil, failed(protocol.CodeMountFailed, fmt.Errorf("run: mount: %w", err))
		}
	}
	workload := "run-" + strings.ToLower(rand.Text())
	if r.PersistentOverlayID != nil {
		workload = *r.PersistentOverlayID
	} else {
		p.cleanup = func() error { return c.removeOverlay(workload) }
	}
	overlay, err := imageData[protocol.OverlayInfo](ctx, c, protocol.PrepareOverlayRequest{Image: r.Image, WorkloadID: workload})
	if err != nil {
		if ctx.Err() != nil { // it may have been made all the same
			c.warn(ctx, "clean up", p.cleanup())
		}
		return nil, err
	}
	p.kind, p.code = "run", protocol.CodeRunFailed
	p.start = func(ctx context.Context, k *job) (*container.Process, error) {
		return k.runImage(ctx, r, overlay)
	}
	p.started = func(k *job, started *container.Process) string {
		if r.Detached {
			return k.name
		}
		return strconv.Itoa(started.Pid())
	}
	return c.runCommand(ctx, p)
}

// imageData asks for something about images that is answered by data.
func imageData[T any](ctx context.Context, c *conn, request protocol.AgentRequest) (T, error) {
	var value T
	answer, err := c.images(ctx, request)
	if err != nil {
		return value, err
	}
	switch a := answer.(type) {
	case protocol.ErrorResponse:
		e := &protocol.Error{Message: a.Message, Code: imageCodes[protocol.AgentRequests.Name(request)]}
		if a.Code != nil {
			e.Code = protocol.Code(*a.Code)
		}
		return value, e
	case protocol.OKResponse:
		err := json.Unmarshal(a.Data, &value)
		return value, err
	}
	return value, fmt.Errorf("%s is answered by %s", protocol.AgentRequests.Name(request), protocol.AgentResponses.Name(answer))
}

// removeOverlay removes what a run has written. The client may be gone.
func (c *conn) removeOverlay(workload string) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	_, err := imageData[json.RawMessage](ctx, c, protocol.CleanupOverlayRequest{WorkloadID: workload})
	return err
}

// runImage starts a container on an overlay.
func (k *job) runImage(ctx context.Context, r protocol.RunRequest, overlay protocol.OverlayInfo) (*container.Process, error) {
	who, err := userOf(r, overlay.Image, overlay.RootfsPath)
	if err != nil {
		return nil, err
	}
	s := surroundings{image: overlay.Image, user: who, hostname: strings.TrimPrefix(k.name, namePrefix)}
	for _, file := range networkFiles {
		if _, err := os.Stat(file); err == nil {
			s.networkFiles = append(s.networkFiles, file)
		}
	}
	spec, err := planRun(r, s)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(spec)
	if err != nil {
		return nil, failed(protocol.CodeSerialization, err)
	}
	if err := k.containers.Prepare(ctx, protocol.Prepare{ContainerID: k.name, Rootfs: overlay.RootfsPath}); err != nil {
		return nil, failed(protocol.CodeCreateFailed, err)
	}
	process, err := k.containers.Run(ctx, protocol.Run{
		RequestID: k.id, ContainerID: k.name, Spec: raw, Terminal: r.TTY, Streams: &k.streams,
	})
	if err != nil {
		return nil, errors.Join(failed(protocol.CodeStartFailed, err), k.containers.Remove(protocol.Remove{ContainerID: k.name}))
	}
	return process, nil
}

// userOf is who a run's process is to be: a name or number, with or without a group, as the files of its root directory say.
func userOf(r protocol.RunRequest, image protocol.ImageInfo, rootfs string) (specs.User, error) {
	name := ""
	if image.User != nil {
		name = *image.User
	}
	if r.User != nil {
		name = *r.User
	}
	passwd, err := userFile(rootfs, "etc/passwd")
	if err != nil {
		return specs.User{}, err
	}
	group, err := userFile(rootfs, "etc/group")
	if err != nil {
		return specs.User{}, err
	}
	found, err := user.GetExecUser(name, &user.ExecUser{Home: "/"}, passwd, group)
	if err != nil {
		return specs.User{}, invalid("run: user %.128q: %v", name, err)
	}
	who := specs.User{UID: uint32(found.Uid), GID: uint32(found.Gid)}
	for _, gid := range found.Sgids {
		who.AdditionalGids = append(who.AdditionalGids, uint32(gid))
	}
	return who, nil
}

// userFile reads a file of a root directory, whatever an image has put there. One that does not exist is empty.
func userFile(rootfs, name string) (io.Reader, error) {
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return nil, fmt.Errorf("run: root directory: %w", err)
	}
	defer root.Close()
	info, err := root.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return bytes.NewReader(nil), nil
	}
	if err != nil {
		return nil, fmt.Errorf("run: the image's %s: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, invalid("run: the image's %s is no regular file", name)
	}
	file, err := root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("run: the image's %s: %w", name, err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxUserFile))
	return bytes.NewReader(content), err
}
