package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/integration/harness"
)

const (
	// The bare machine's address is guestinit's own; the host's is the other one in that network.
	bareAddress, bareHost = "10.99.0.2", "10.99.0.1/24"
	// port is where guestinit serves.
	port = "7"
	// roundTrips is how many of them one value is the mean of.
	roundTrips = 500
)

// network measures nerdctl's whole lives of containers on a bridge, and TCP between guest and host: limpet's, through tap, veth and
// bridge, beside a tap alone into a bare machine. The same program answers in both.
func (b *bench) network() (_ []row, err error) {
	life, err := b.runtimes("nerdctl run --rm of true", "ms", "", b.runs, func(runtime string) (float64, error) {
		began := time.Now()
		err := b.daemon.Nerdctl(b.ctx, harness.NerdctlArgs(runtime, []string{"--rm"}, "true")...).Err()
		return milliseconds(began), err
	})
	if err != nil {
		return nil, err
	}
	bare, err := b.bareMachine()
	if err != nil {
		return nil, err
	}
	stop, err := bare.serve()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	address, err := b.serve(bare.program())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.daemon.Nerdctl(b.ctx, "rm", "--force", "bench-tcp").Err()) }()

	var rows []row
	for _, part := range []struct {
		name, unit, aim string
		measure         func(address string) (float64, error)
	}{
		{"256 MiB over TCP, guest to host", "MiB/s", ">= 0.8", b.tcpRate},
		{"TCP round trip", "ms", "<= 1.3", b.tcpRoundTrip},
	} {
		limpet, raw, err := b.alternate(part.name, b.runs, func() (float64, error) { return part.measure(address) },
			func() (float64, error) { return part.measure(bareAddress) })
		if err != nil {
			return nil, err
		}
		rows = append(rows, row{
			Name: part.name, Unit: part.unit, Limpet: limpet, Reference: raw, ReferenceName: "tap, bare QEMU", Aim: part.aim,
		})
	}
	return append([]row{life}, rows...), nil
}

// serve runs the program in a container on the bridge, and returns its address.
func (b *bench) serve(program string) (string, error) {
	flags := []string{
		"--detach", "--name", "bench-tcp", "--volume", program + ":/guestinit:ro",
		"--security-opt", "seccomp=unconfined", // a filter of system calls is no part of the network
	}
	if err := b.daemon.Nerdctl(b.ctx, harness.NerdctlArgs(harness.Limpet, flags, "/guestinit", "serve")...).Err(); err != nil {
		return "", err
	}
	found := b.daemon.Nerdctl(b.ctx, "inspect", "--format", "{{.NetworkSettings.IPAddress}}", "bench-tcp")
	return strings.TrimSpace(found.Stdout), found.Err()
}

// serve starts a bare machine with a tap, and returns what ends both.
func (b *bareMachine) serve() (stop func() error, err error) {
	var tap *os.File
	err = b.daemon.Within(func() (err error) {
		tap, err = makeTap()
		return err
	})
	if err != nil {
		return nil, err
	}
	nic := hypervisor.NIC{ID: "net", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 99}, Tap: tap}
	machine, err := b.start("tcp", nic)
	if err = errors.Join(err, tap.Close()); err != nil {
		return nil, err
	}
	return func() error { return machine.Stop(b.ctx) }, nil
}

// makeTap makes a tap that goes with its file, in the network namespace of the calling thread.
func makeTap() (*os.File, error) {
	tap := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: "bare"}, Mode: netlink.TUNTAP_MODE_TAP, NonPersist: true, Queues: 1,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR,
	}
	if err := netlink.LinkAdd(tap); err != nil {
		return nil, fmt.Errorf("make a tap: %w", err)
	}
	link, err := netlink.LinkByName(tap.Name)
	if err == nil {
		address, parseErr := netlink.ParseAddr(bareHost)
		err = errors.Join(parseErr, netlink.AddrAdd(link, address), netlink.LinkSetUp(link))
	}
	if err != nil {
		return nil, errors.Join(err, tap.Fds[0].Close())
	}
	return tap.Fds[0], nil
}

// dial connects to guestinit, as soon as it serves, and says what it is to do.
func (b *bench) dial(address, what string) (net.Conn, error) {
	const patience = 60 * time.Second // a boot
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		conn, err := b.daemon.Dial(b.ctx, net.JoinHostPort(address, port))
		if err == nil {
			_, err = io.WriteString(conn, what)
			return conn, err
		}
		if time.Since(began) > patience || b.ctx.Err() != nil {
			return nil, err
		}
	}
}

func (b *bench) tcpRate(address string) (float64, error) {
	conn, err := b.dial(address, "s")
	if err != nil {
		return 0, err
	}
	rate, err := receive(conn)
	return rate, errors.Join(err, conn.Close())
}

func (b *bench) tcpRoundTrip(address string) (float64, error) {
	conn, err := b.dial(address, "e")
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	one := make([]byte, 1)
	began := time.Now()
	for range roundTrips {
		if _, err := conn.Write(one); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(conn, one); err != nil {
			return 0, err
		}
	}
	return milliseconds(began) / roundTrips, nil
}
