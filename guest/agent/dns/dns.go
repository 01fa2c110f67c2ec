// Package dns is the resolver of a guest whose names the host resolves: it listens on the guest's loopback, and passes questions and
// answers on without a look inside.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// port is where resolvers ask.
const port = 53

const (
	// clientTimeout is how long a client of TCP may be silent.
	clientTimeout = 30 * time.Second
	// writeTimeout is how long a client of TCP may take to take an answer.
	writeTimeout = 10 * time.Second
)

// addresses are the guest's loopback.
var addresses = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// Server is the guest's resolver.
type Server struct {
	dial   func(ctx context.Context, port uint32, token protocol.Token) (net.Conn, error)
	logger *slog.Logger

	mu sync.Mutex
	at protocol.Resolver // the host's; its zero value: nothing has been asked for
}

// New makes a server that listens when it is asked to. dial connects to a port of the host's and says the token.
func New(dial func(ctx context.Context, port uint32, token protocol.Token) (net.Conn, error), logger *slog.Logger) *Server {
	return &Server{dial: dial, logger: logger}
}

// Resolve listens, for the machine's life. A second time it does nothing.
func (s *Server) Resolve(m protocol.Resolver) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at.Port != 0 {
		if s.at != m {
			return fmt.Errorf("resolve names by the host's port %d: another resolver, at %d, has been named: %w", m.Port, s.at.Port,
				errdefs.ErrAlreadyExists)
		}
		return nil
	}
	sockets, err := listen(port)
	if err != nil {
		return fmt.Errorf("resolve names by the host: %w", err)
	}
	s.at = m
	s.serve(sockets, func(ctx context.Context) (net.Conn, error) { return s.dial(ctx, m.Port, m.Token) })
	return nil
}

// sockets are what is listened on.
type sockets struct {
	packets   []net.PacketConn
	listeners []net.Listener
}

func (s sockets) close() {
	for _, packets := range s.packets {
		packets.Close()
	}
	for _, listener := range s.listeners {
		listener.Close()
	}
}

// listen listens on a port of loopback; of IPv6 only if the guest has it.
func listen(port uint16) (_ sockets, err error) {
	var all sockets
	defer func() {
		if err != nil {
			all.close()
		}
	}()
	for _, address := range addresses {
		endpoint := netip.AddrPortFrom(address, port)
		packets, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(endpoint))
		if address.Is6() && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) {
			continue
		}
		if err != nil {
			return all, err
		}
		all.packets = append(all.packets, packets)
		listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(packets.LocalAddr().(*net.UDPAddr).AddrPort()))
		if err != nil {
			return all, err
		}
		all.listeners = append(all.listeners, listener)
	}
	return all, nil
}

// serve answers at all of them, until they are closed.
func (s *Server) serve(all sockets, dial func(context.Context) (net.Conn, error)) {
	// Together they are no more than the host serves.
	datagrams := newPool(protocol.ResolverDatagrams, protocol.MaxResolverConns*3/4, dial)
	streams := newPool(protocol.ResolverStream, protocol.MaxResolverConns/4, dial)
	for _, packets := range all.packets {
		go s.servePackets(packets, datagrams)
	}
	for _, listener := range all.listeners {
		go s.serveListener(listener, streams)
	}
}

// servePackets answers UDP. Questions beyond what the host takes at the same time are lost, and asked again.
func (s *Server) servePackets(packets net.PacketConn, pool *pool) {
	asking := make(chan struct{}, cap(pool.busy))
	buffer := make([]byte, protocol.MaxQuestion+1)
	for {
		n, client, err := packets.ReadFrom(buffer)
		if err != nil {
			s.logger.Warn("the resolver listens no more", "error", err)
			return
		}
		if n > protocol.MaxQuestion {
			continue
		}
		select {
		case asking <- struct{}{}:
		default:
			continue
		}
		question := append([]byte(nil), buffer[:n]...)
		go func() {
			defer func() { <-asking }()
			answer, err := s.exchange(pool, question)
			if err == nil && len(answer) > 0 {
				_, err = packets.WriteTo(answer, client)
			}
			if err != nil {
				s.logger.Warn("name not resolved", "error", err)
			}
		}()
	}
}

func (s *Server) exchange(pool *pool, question []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), exchangeTimeout)
	defer cancel()
	return pool.exchange(ctx, question)
}

// serveListener answers TCP.
func (s *Server) serveListener(listener net.Listener, pool *pool) {
	clients := make(chan struct{}, cap(pool.busy))
	for {
		clients <- struct{}{}
		client, err := listener.Accept()
		if err != nil {
			s.logger.Warn("the resolver listens no more", "error", err)
			return
		}
		go func() {
			defer func() { <-clients }()
			defer client.Close()
			err := s.serveClient(client, pool)
			s.logger.Debug("client of the resolver gone", "error", err)
		}()
	}
}

// serveClient answers one client of TCP until it goes.
func (s *Server) serveClient(client net.Conn, pool *pool) error {
	for {
		if err := client.SetDeadline(time.Now().Add(clientTimeout)); err != nil {
			return err
		}
		question, err := protocol.ReadDNS(client, protocol.MaxQuestion)
		if err != nil {
			return err
		}
		answer, err := s.exchange(pool, question)
		if err != nil {
			return err
		}
		if len(answer) == 0 {
			return errdefs.ErrInvalidArgument
		}
		if err := client.SetDeadline(time.Now().Add(writeTimeout)); err != nil {
			return err
		}
		if err := protocol.WriteDNS(client, answer); err != nil {
			return err
		}
	}
}
