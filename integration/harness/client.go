package harness

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/api/services/sandbox/v1"
	"github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Client is containerd's API, for what `ctr` cannot do or does not show. Calls take a context of Context, and their errors are
// those of package errdefs.
type Client struct {
	Tasks      tasks.TasksClient
	Containers containers.ContainersClient
	Snapshots  snapshots.SnapshotsClient
	Sandboxes  sandbox.StoreClient
	Events     events.EventsClient
	Pods       runtime.RuntimeServiceClient // CRI, what a kubelet speaks; its errors are plain ones

	conn      *grpc.ClientConn
	namespace string
}

// dial connects to containerd. The connection is made on first use.
func dial(address, namespace string) (*Client, error) {
	conn, err := grpc.NewClient("unix://"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(nativeErrors),
		// A containerd that is started again is found at once, and not after gRPC's usual second or more.
		grpc.WithConnectParams(grpc.ConnectParams{
			MinConnectTimeout: 5 * time.Second,
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond},
		}))
	if err != nil {
		return nil, err
	}
	return &Client{
		Tasks:      tasks.NewTasksClient(conn),
		Containers: containers.NewContainersClient(conn),
		Snapshots:  snapshots.NewSnapshotsClient(conn),
		Sandboxes:  sandbox.NewStoreClient(conn),
		Events:     events.NewEventsClient(conn),
		Pods:       runtime.NewRuntimeServiceClient(conn),
		conn:       conn,
		namespace:  namespace,
	}, nil
}

// awaitConnection waits until the client is connected.
func (c *Client) awaitConnection(ctx context.Context) error {
	for {
		c.conn.Connect()
		state := c.conn.GetState()
		if state == connectivity.Ready {
			return nil
		}
		if !c.conn.WaitForStateChange(ctx, state) {
			return fmt.Errorf("connect to containerd again: %w", ctx.Err())
		}
	}
}

// nativeErrors gives every failed call an error of package errdefs.
func nativeErrors(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker,
	options ...grpc.CallOption) error {
	return errgrpc.ToNative(call(ctx, method, request, reply, conn, options...))
}

// Context returns ctx with the run's namespace.
func (c *Client) Context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, c.namespace)
}

// In returns the client in another namespace, over the same connection, which stays c's to close.
func (c *Client) In(namespace string) *Client {
	other := *c
	other.namespace = namespace
	return &other
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// ContainerIDs lists the containers of the run.
func (c *Client) ContainerIDs(ctx context.Context) ([]string, error) {
	list, err := c.Containers.List(c.Context(ctx), &containers.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, container := range list.Containers {
		ids = append(ids, container.ID)
	}
	return ids, nil
}

// RemoveAll removes every pod of the run and every container, as Remove does.
func (c *Client) RemoveAll(ctx context.Context) error {
	ids, err := c.ContainerIDs(ctx)
	errs := []error{err, c.removePods(ctx)}
	for _, id := range ids {
		errs = append(errs, c.Remove(ctx, id))
	}
	return errors.Join(errs...)
}

// Rootfs returns the mounts of a container's root file system.
func (c *Client) Rootfs(ctx context.Context, id string) ([]*types.Mount, error) {
	container, err := c.Containers.Get(c.Context(ctx), &containers.GetContainerRequest{ID: id})
	if err != nil {
		return nil, err
	}
	mounts, err := c.Snapshots.Mounts(c.Context(ctx), &snapshots.MountsRequest{
		Snapshotter: container.Container.Snapshotter, Key: container.Container.SnapshotKey,
	})
	if err != nil {
		return nil, err
	}
	return mounts.Mounts, nil
}

// Remove kills a container's task if there is one, waits for its end, and deletes task, container and snapshot. What is
// already gone is no error.
func (c *Client) Remove(ctx context.Context, id string) error {
	ctx = c.Context(ctx)
	container, err := c.Containers.Get(ctx, &containers.GetContainerRequest{ID: id})
	if err != nil {
		return ignoreNotFound(err)
	}
	if err := c.removeTask(ctx, id); err != nil {
		return fmt.Errorf("remove task %s: %w", id, err)
	}
	_, err = c.Containers.Delete(ctx, &containers.DeleteContainerRequest{ID: id})
	if ignoreNotFound(err) != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	key := container.Container.SnapshotKey
	if key == "" {
		return nil
	}
	_, err = c.Snapshots.Remove(ctx, &snapshots.RemoveSnapshotRequest{Snapshotter: container.Container.Snapshotter, Key: key})
	if ignoreNotFound(err) != nil {
		return fmt.Errorf("remove snapshot %s: %w", key, err)
	}
	return nil
}

func (c *Client) removeTask(ctx context.Context, id string) error {
	if _, err := c.Tasks.Get(ctx, &tasks.GetRequest{ContainerID: id}); err != nil {
		return ignoreNotFound(err)
	}
	_, err := c.Tasks.Kill(ctx, &tasks.KillRequest{ContainerID: id, Signal: uint32(unix.SIGKILL), All: true})
	switch {
	case err == nil:
		if _, err := c.Tasks.Wait(ctx, &tasks.WaitRequest{ContainerID: id}); ignoreNotFound(err) != nil {
			return err
		}
	case errors.Is(err, errdefs.ErrNotFound): // it has ended
	case errors.Is(err, errdefs.ErrFailedPrecondition): // it was never started
	default:
		return err
	}
	_, err = c.Tasks.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
	return ignoreNotFound(err)
}

func ignoreNotFound(err error) error {
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	return err
}
