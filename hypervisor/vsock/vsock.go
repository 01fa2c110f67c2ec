// Package vsock is how host and guest reach each other: the host's half of a guest's vsock device, by the kernel's vhost-vsock or
// by the vhost-device-vsock daemon. Both give the guest a real AF_VSOCK.
//
// The session port is listened on from before the machine runs: a guest that dials it is never lost. Other ports are listened on only for
// services that the guest is told of. Everything else is dialled by the host.
package vsock

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/hypervisor"
)

// Backend is who moves the bytes.
type Backend string

const (
	// BackendAuto is the daemon where it is installed, else the kernel if /dev/vhost-vsock is there.
	BackendAuto Backend = "auto"
	// BackendKernel is the kernel's vhost-vsock: host sockets are AF_VSOCK. Every process of the host that may make one can dial every port of
	// the guest, from containers of other runtimes too.
	BackendKernel Backend = "kernel"
	// BackendDaemon is vhost-device-vsock: host sockets are unix sockets.
	BackendDaemon Backend = "daemon"
)

// ParseBackend reads a backend's name (errdefs.ErrInvalidArgument).
func ParseBackend(name string) (Backend, error) {
	switch backend := Backend(name); backend {
	case BackendAuto, BackendKernel, BackendDaemon:
		return backend, nil
	}
	return "", fmt.Errorf("vsock backend %q: not one of auto, kernel, daemon: %w", name, errdefs.ErrInvalidArgument)
}

// Options is what a device needs to know.
type Options struct {
	Backend Backend
	// Dir is where the daemon's sockets are. It exists, is the caller's and the device's alone, and is short enough for a unix
	// socket's path (below 80 bytes). The caller may rename it, and removes it after Close.
	Dir string
	// Daemon is vhost-device-vsock: a path, or a name that is looked up in PATH.
	Daemon string
	// SessionPortBase plus the guest's CID is the port that Accept listens on.
	SessionPortBase uint32
	// Cgroup is where the daemon runs.
	Cgroup hypervisor.Cgroup
	Logger *slog.Logger
}

// Device is the host's half of one guest's vsock device. Its methods are safe for concurrent use.
type Device interface {
	hypervisor.VsockDevice
	// Accept returns the next connection that the guest dials to the session port; net.ErrClosed after Close.
	Accept(ctx context.Context) (net.Conn, error)
	// Dial connects to a port of the guest. The connection is the caller's. errdefs.ErrUnavailable: nobody listens there, or the
	// guest is gone.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	// Listen listens for the guest on a port of the host: the given one where the guest has the ports to itself, else a free one. It ends
	// with the device.
	Listen(port uint32) (Listener, error)
	// Close ends the device and its daemon, once the machine has let go of it. It may be called more than once.
	Close() error
}

// Listener accepts what one guest dials on one port of the host. Its methods are safe for concurrent use.
type Listener interface {
	// Port is what the guest is to dial.
	Port() uint32
	// Accept returns the next connection; net.ErrClosed after Close. At most one waits for it beside those in the kernel's queue.
	Accept(ctx context.Context) (net.Conn, error)
	// Close may be called more than once.
	Close() error
}

// New makes a device that can be plugged into a machine, listening on its session port. On error nothing is left behind.
func New(ctx context.Context, options Options) (Device, error) {
	backend, err := choose(options.Backend, vhostDevice, options.Daemon)
	if err != nil {
		return nil, err
	}
	var device Device
	switch backend {
	case BackendKernel:
		device, err = newKernelDevice(options)
	default:
		device, err = newDaemonDevice(ctx, options)
	}
	if err != nil {
		return nil, fmt.Errorf("vsock device by the %s backend: %w", backend, err)
	}
	options.Logger.Debug("vsock device made", "backend", backend, "configured", options.Backend, "cid", device.CID())
	return device, nil
}

// choose resolves auto. vhost is the path of the kernel's device, daemon what Options.Daemon is.
func choose(backend Backend, vhost, daemon string) (Backend, error) {
	if backend != BackendAuto {
		return ParseBackend(string(backend))
	}
	if _, err := findDaemon(daemon); err == nil {
		return BackendDaemon, nil
	}
	if _, err := os.Stat(vhost); err != nil {
		return BackendDaemon, nil // whose error says the way out
	}
	return BackendKernel, nil
}

// Guests' CIDs: 0 to 2 are taken (hypervisor, local, host); the upper half is left out, so that session ports do not overflow.
const (
	minCID = 3
	maxCID = 1<<31 - 1
)

func randomCID() uint32 { return minCID + rand.Uint32N(maxCID-minCID+1) }
