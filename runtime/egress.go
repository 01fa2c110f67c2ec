package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/time/rate"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/egress"
	"github.com/limpet-run/limpet/runtime/network"
	"github.com/limpet-run/limpet/runtime/oci"
)

// resolvConf is where programs look for name servers.
const resolvConf = "/etc/resolv.conf"

// maxResolvConf is how much of a resolv.conf is read, in bytes: resolvers take three servers and six names of domains.
const maxResolvConf = 64 << 10

// loggedRefusals is how many refusals of a container's network, or of those who dial what is for the agent, are logged in a second.
const loggedRefusals = 10

// egressGuard is a sandbox's egress policy at work.
type egressGuard struct {
	policy egress.Policy
	filter *egress.Filter
	// given tells that the configuration names the name servers, so that no container does.
	given bool
}

// newEgressGuard makes a guard as the configuration has it; nil if it restricts nothing.
func newEgressGuard(settings config.Egress, log *slog.Logger) (*egressGuard, error) {
	if !settings.Restrict {
		return nil, nil
	}
	policy, err := egress.New(settings.Hosts, settings.CIDRs)
	if err != nil {
		return nil, err
	}
	var servers []netip.AddrPort
	for _, text := range settings.NameServers {
		server, err := egress.ParseServer(text)
		if err != nil {
			return nil, err
		}
		servers = append(servers, server)
	}
	given := len(servers) > 0
	if !given {
		text, err := readResolvConf(resolvConf)
		if err != nil {
			return nil, err
		}
		servers = egress.Servers(text)
	}
	filter := egress.NewFilter(egress.FilterOptions{Policy: policy, Servers: servers, Logger: log})
	return &egressGuard{policy, filter, given}, nil
}

// readResolvConf reads one; one that is not there says nothing.
func readResolvConf(path string) (string, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for name servers: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxResolvConf))
	if err != nil {
		return "", fmt.Errorf("look for name servers: %w", err)
	}
	return string(text), nil
}

// resolveNames has the guest's names resolved by the host, if the sandbox has an egress policy.
func (s *Sandbox) resolveNames(ctx context.Context, times *trace) error {
	if s.egress == nil {
		return nil
	}
	defer times.stage("egress")()
	listener, err := s.listenForAgent(protocol.DNSPort)
	if err != nil {
		return fmt.Errorf("serve the guest's resolver: %w", err)
	}
	serving, stop := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		err := s.egress.filter.Serve(serving, listener)
		if serving.Err() == nil && !errors.Is(err, net.ErrClosed) { // which is the machine's end
			s.log.Error("the guest resolves no more names", "error", err)
		}
	}()
	s.undo.push("stop resolving the guest's names", func(context.Context) error {
		stop()
		err := listener.Close()
		<-served
		s.egress.filter.Close()
		return err
	})
	if _, err := s.call(ctx, callTimeout, protocol.Resolver{Port: listener.Port(), Token: listener.token}); err != nil {
		return fmt.Errorf("have the guest's names resolved by the host: %w", err)
	}
	return nil
}

// containerResolvConf is the resolv.conf of a container in a sandbox with an egress policy; nil in others.
type containerResolvConf struct{ path, text string }

// guestResolvConf is what a container's resolv.conf becomes. The first that names name servers says whom the host asks.
func (s *Sandbox) guestResolvConf(spec *specs.Spec, options ContainerOptions) (*containerResolvConf, error) {
	if s.egress == nil {
		return nil, nil
	}
	source := oci.BindSource(spec, options.Bundle, resolvConf)
	if source == "" {
		source = s.podFiles()[resolvConf]
	}
	text := ""
	if source != "" {
		var err error
		if text, err = readResolvConf(source); err != nil {
			return nil, err
		}
	}
	if !s.egress.given {
		servers := slices.DeleteFunc(egress.Servers(text), func(server netip.AddrPort) bool { return server.Addr().IsLoopback() })
		s.egress.filter.UseServers(servers)
	}
	return &containerResolvConf{filepath.Join(s.dir.path, resolvDir, options.ID), egress.ForGuest(text)}, nil
}

// mounts are the file by its path in the container.
func (r *containerResolvConf) mounts() map[string]string {
	if r == nil {
		return nil
	}
	return map[string]string{resolvConf: r.path}
}

// writeResolvConf makes the container's resolv.conf.
func (c *Container) writeResolvConf() error {
	if c.resolvConf == nil {
		return nil
	}
	dir := c.sandbox.dir
	if err := os.Mkdir(filepath.Dir(c.resolvConf.path), 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return dir.failed("make a resolv.conf in", err)
	}
	c.undo.push("remove its resolv.conf", func(context.Context) error {
		if err := os.Remove(c.resolvConf.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	})
	if err := os.WriteFile(c.resolvConf.path, []byte(c.resolvConf.text), 0o644); err != nil {
		return dir.failed("make a resolv.conf in", err)
	}
	return nil
}

// guard has the connection's cards let through what the policy admits, and what they refuse answered and logged.
func (l *connection) guard() error {
	if l.egress == nil || l.isHost() {
		return nil
	}
	if err := l.followRefusals(); err != nil {
		l.log.Warn("what the egress policy refuses is neither answered nor logged", "error", err)
	}
	return l.egress.filter.AddGate(l)
}

// followRefusals has what is refused answered and logged, until the connection is closed.
func (l *connection) followRefusals() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errdefs.ErrUnavailable
	}
	refusals, err := l.namespace.Refusals()
	if err != nil {
		return err
	}
	l.refusals = refusals
	go l.logRefusals(refusals)
	return nil
}

// logRefusals answers and logs refusals until they are closed.
func (l *connection) logRefusals(refusals *network.Refusals) {
	limit := rate.NewLimiter(loggedRefusals, loggedRefusals)
	for {
		told, err := refusals.Next()
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			l.log.Warn("what the egress policy refuses is neither answered nor logged any more", "error", err)
			return
		}
		for _, refusal := range told {
			if limit.Allow() {
				l.log.Info("refused by the egress policy", "destination", refusal.String())
			}
		}
	}
}

// Admit implements egress.Gate.
func (l *connection) Admit(addresses []netip.Addr) error {
	return l.change((*network.Namespace).Admit, addresses)
}

// Expel implements egress.Gate.
func (l *connection) Expel(addresses []netip.Addr) error {
	return l.change((*network.Namespace).Expel, addresses)
}

// change changes what the cards let through, unless they are gone.
func (l *connection) change(do func(*network.Namespace, []network.Card, []netip.Addr) error, addresses []netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(addresses) == 0 {
		return nil
	}
	return do(l.namespace, l.attached, addresses)
}
