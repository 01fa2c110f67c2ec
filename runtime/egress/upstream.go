package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/miekg/dns"
)

// serverTimeout is how long one name server may take. MaxServers of them, over UDP and TCP, take less than the guest waits.
const serverTimeout = 2 * time.Second

// upstream is the name servers that are asked.
type upstream struct {
	mu      sync.Mutex
	servers []netip.AddrPort
	named   bool // by use
}

// use replaces the servers, once, and not by none.
func (u *upstream) use(servers []netip.AddrPort) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(servers) > 0 && !u.named {
		u.servers, u.named = servers, true
	}
}

func (u *upstream) list() []netip.AddrPort {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.servers
}

// ask asks one after the other until one answers.
func (u *upstream) ask(ctx context.Context, question dns.Question) (*dns.Msg, error) {
	servers := u.list()
	if len(servers) == 0 {
		return nil, fmt.Errorf("there is no name server to ask: set egress.nameservers: %w", errdefs.ErrNotFound)
	}
	var errs []error
	for _, server := range servers {
		answer, err := exchange(ctx, server.String(), question)
		if err == nil && answer.Rcode != dns.RcodeServerFailure && answer.Rcode != dns.RcodeRefused {
			return answer, nil
		}
		if err == nil {
			err = fmt.Errorf("it answered %s", dns.RcodeToString[answer.Rcode])
		}
		errs = append(errs, fmt.Errorf("name server %s: %w", server, err))
	}
	return nil, errors.Join(errs...)
}

// exchange asks one server: over UDP, and again over TCP if the answer does not fit.
func exchange(ctx context.Context, server string, question dns.Question) (*dns.Msg, error) {
	query := new(dns.Msg).SetQuestion(question.Name, question.Qtype)
	query.SetEdns0(ednsSize, false)
	answer, err := exchangeOver(ctx, "udp", server, query)
	if err == nil && answer.Truncated {
		answer, err = exchangeOver(ctx, "tcp", server, query)
	}
	if err != nil {
		return nil, err
	}
	if len(answer.Question) != 1 || answer.Question[0].Qtype != question.Qtype || !strings.EqualFold(answer.Question[0].Name, question.Name) {
		return nil, errors.New("it answered another question")
	}
	return answer, nil
}

func exchangeOver(ctx context.Context, network, server string, query *dns.Msg) (*dns.Msg, error) {
	client := dns.Client{Net: network, Timeout: serverTimeout, Dialer: &net.Dialer{Timeout: serverTimeout}}
	answer, _, err := client.ExchangeContext(ctx, query, server)
	return answer, err
}
