package egress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/time/rate"

	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// maxTTL is the longest that an answer is good, in seconds: an address goes back to its owner at some time.
	maxTTL = 3600
	// maxChain is how many names an alias may lead over. Resolvers follow about as many.
	maxChain = 16
	// maxAddresses is how many addresses of an answer are passed on.
	maxAddresses = 64
	// logsPerSecond is how many lines are logged about what the guest asks, with bursts of as many.
	logsPerSecond = 10
	// ednsSize is how long an answer over UDP may be that is asked for: it fits into a packet anywhere (dnsflagday.net/2020).
	ednsSize = 1232
	// maxUDP is the longest answer over UDP that the guest is given: its loopback takes it whole.
	maxUDP = 4096
)

// passed are the types of questions that are asked and answered. What else there is for an allowed name is not told: some of it, as HTTPS,
// has addresses in it.
var passed = []uint16{
	dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeMX, dns.TypeTXT, dns.TypeSRV, dns.TypeNS, dns.TypeSOA, dns.TypeCAA,
}

// FilterOptions are what a Filter needs.
type FilterOptions struct {
	Policy  Policy
	Servers []netip.AddrPort // to ask, the first that answers; at most MaxServers
	Logger  *slog.Logger
}

// Filter answers a guest's questions for names, as its policy allows, and admits the addresses that it answers with. Its methods are safe
// for concurrent use.
type Filter struct {
	policy    Policy
	upstream  *upstream
	admission *admission
	logger    *slog.Logger
	logs      *rate.Limiter
}

// NewFilter makes a filter.
func NewFilter(options FilterOptions) *Filter {
	return &Filter{
		policy: options.Policy, upstream: &upstream{servers: options.Servers}, admission: newAdmission(options.Logger),
		logger: options.Logger, logs: rate.NewLimiter(logsPerSecond, logsPerSecond),
	}
}

// log logs what the guest can bring about as often as it likes.
func (f *Filter) log(level slog.Level, text string, args ...any) {
	if f.logs.Allow() {
		f.logger.Log(context.Background(), level, text, args...)
	}
}

// UseServers has these name servers asked from now on, if there are any and none were named so before.
func (f *Filter) UseServers(servers []netip.AddrPort) { f.upstream.use(servers) }

// AddGate has what is admitted, now and later, be let through a gate until RemoveGate.
func (f *Filter) AddGate(gate Gate) error { return f.admission.add(gate) }

// RemoveGate undoes AddGate.
func (f *Filter) RemoveGate(gate Gate) { f.admission.remove(gate) }

// Close forgets what is admitted.
func (f *Filter) Close() { f.admission.close() }

// answer answers a question as it came from the guest: nil if it is none. kind is how it came, see protocol.Resolver.
func (f *Filter) answer(ctx context.Context, kind byte, packed []byte) []byte {
	var question dns.Msg
	if err := question.Unpack(packed); err != nil || question.Response {
		return nil
	}
	reply := f.reply(ctx, &question)
	size := dns.MaxMsgSize
	if kind == protocol.ResolverDatagrams {
		size = dns.MinMsgSize
		if options := question.IsEdns0(); options != nil {
			size = min(max(size, int(options.UDPSize())), maxUDP)
		}
	}
	reply.Truncate(size)
	answer, err := reply.Pack()
	if err != nil {
		f.log(slog.LevelWarn, "an answer for a name cannot be passed on", "error", err)
		return nil
	}
	return answer
}

// reply is the answer to a question.
func (f *Filter) reply(ctx context.Context, question *dns.Msg) *dns.Msg {
	reply := new(dns.Msg).SetReply(question)
	reply.RecursionAvailable = true
	if options := question.IsEdns0(); options != nil {
		reply.SetEdns0(maxUDP, false)
	}
	switch {
	case question.Opcode != dns.OpcodeQuery:
		reply.Rcode = dns.RcodeNotImplemented
		return reply
	case len(question.Question) != 1 || question.Question[0].Qclass != dns.ClassINET:
		reply.Rcode = dns.RcodeFormatError
		return reply
	}
	asked := question.Question[0]
	if !f.policy.AllowsName(asked.Name) {
		// "No such name" has a client try the next of its search list; "refused" would end its search.
		reply.Rcode = dns.RcodeNameError
		if options := reply.IsEdns0(); options != nil {
			options.Option = append(options.Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeProhibited})
		}
		f.log(slog.LevelInfo, "name refused by the egress policy", "name", asked.Name, "type", dns.TypeToString[asked.Qtype])
		return reply
	}
	if !slices.Contains(passed, asked.Qtype) {
		return reply
	}
	found, err := f.upstream.ask(ctx, asked)
	if err == nil {
		err = f.pass(asked, found, reply)
	}
	if err != nil {
		f.log(slog.LevelWarn, "name not resolved", "name", asked.Name, "error", err)
		reply.Rcode, reply.Answer, reply.Ns = dns.RcodeServerFailure, nil, nil
	}
	return reply
}

// pass admits the addresses that were found, and puts what may be told into the reply.
func (f *Filter) pass(asked dns.Question, found, reply *dns.Msg) error {
	reply.Rcode = found.Rcode
	records, err := chain(asked, found.Answer)
	if err != nil {
		return err
	}
	lifetime := uint32(maxTTL)
	var addresses []netip.Addr
	for _, record := range records {
		lifetime = min(lifetime, record.Header().Ttl)
		address, ok := addressOf(record)
		if !ok {
			reply.Answer = append(reply.Answer, record)
			continue
		}
		if !f.policy.AcceptsAnswer(address) {
			f.log(slog.LevelWarn,
				"address refused that a name has, as it is no public one: list its range in the egress policy if it is meant to be reached",
				"name", asked.Name, "address", address)
			continue
		}
		if len(addresses) < maxAddresses {
			addresses = append(addresses, address)
			reply.Answer = append(reply.Answer, record)
		}
	}
	for _, record := range found.Ns {
		if _, ok := record.(*dns.SOA); ok && len(reply.Answer) == 0 { // how long it is to be remembered that there is nothing
			reply.Ns = append(reply.Ns, record)
		}
	}
	for _, record := range slices.Concat(reply.Answer, reply.Ns) {
		record.Header().Ttl = min(record.Header().Ttl, maxTTL)
	}
	if len(addresses) == 0 {
		return nil
	}
	return f.admission.admit(addresses, time.Duration(lifetime)*time.Second)
}

var errEndlessChain = errors.New("its aliases have no end")

// chain returns the records that answer a question: the aliases from name to name, and what the last of them has. What an answer has
// beside is nobody's word.
func chain(asked dns.Question, answer []dns.RR) ([]dns.RR, error) {
	var records []dns.RR
	name := asked.Name
	for range maxChain {
		next := ""
		for _, record := range answer {
			header := record.Header()
			if !strings.EqualFold(header.Name, name) || header.Class != dns.ClassINET {
				continue
			}
			if header.Rrtype == asked.Qtype {
				records = append(records, record)
			} else if alias, ok := record.(*dns.CNAME); ok && next == "" {
				records = append(records, record)
				next = alias.Target
			}
		}
		if next == "" {
			return records, nil
		}
		name = next
	}
	return nil, fmt.Errorf("resolve %s: %w", asked.Name, errEndlessChain)
}

// addressOf is the address that a record has.
func addressOf(record dns.RR) (netip.Addr, bool) {
	switch record := record.(type) {
	case *dns.A:
		address, ok := netip.AddrFromSlice(record.A.To4())
		return address, ok
	case *dns.AAAA:
		return netip.AddrFromSlice(record.AAAA.To16())
	}
	return netip.Addr{}, false
}
