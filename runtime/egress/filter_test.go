package egress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/limpet-run/limpet/guest/protocol"
)

const testTimeout = 10 * time.Second

// nameServer answers over UDP and TCP with the records of a name, as lines of a zone; names that it does not know do not exist.
type nameServer struct {
	address netip.AddrPort

	mu    sync.Mutex
	zone  map[string][]string
	asked []string
}

func newNameServer(t *testing.T, zone map[string][]string) *nameServer {
	t.Helper()
	s := &nameServer{zone: zone}
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", packets.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	s.address = packets.LocalAddr().(*net.UDPAddr).AddrPort()
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: s}, {Listener: listener, Handler: s}} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go server.ActivateAndServe()
		<-started
		t.Cleanup(func() { server.Shutdown() })
	}
	return s
}

func (s *nameServer) ServeDNS(w dns.ResponseWriter, question *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := question.Question[0]
	s.asked = append(s.asked, w.LocalAddr().Network()+" "+asked.Name)
	reply := new(dns.Msg).SetReply(question)
	lines, ok := s.zone[asked.Name]
	if !ok {
		reply.Rcode = dns.RcodeNameError
		reply.Ns = []dns.RR{record("test. 60 IN SOA ns.test. root.test. 1 1 1 1 99999")}
	}
	for _, line := range lines {
		reply.Answer = append(reply.Answer, record(line))
	}
	reply.Extra = []dns.RR{record("elsewhere.test. 60 IN A 192.0.2.99")}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		reply.Truncate(dns.MinMsgSize)
	}
	w.WriteMsg(reply)
}

func (s *nameServer) questions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func record(line string) dns.RR {
	rr, err := dns.NewRR(line)
	if err != nil {
		panic(err)
	}
	return rr
}

// fakeGate remembers what it lets through.
type fakeGate struct {
	mu       sync.Mutex
	admitted []netip.Addr
	refuse   error
}

func (g *fakeGate) Admit(addresses []netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refuse != nil {
		return g.refuse
	}
	g.admitted = append(g.admitted, addresses...)
	return nil
}

func (g *fakeGate) Expel(addresses []netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.admitted = slices.DeleteFunc(g.admitted, func(a netip.Addr) bool { return slices.Contains(addresses, a) })
	return nil
}

func (g *fakeGate) list() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []string
	for _, address := range g.admitted {
		list = append(list, address.String())
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func newTestFilter(t *testing.T, servers ...netip.AddrPort) (*Filter, *fakeGate) {
	t.Helper()
	policy, err := New([]string{"allowed.test", "*.wild.test"}, []string{"10.1.0.0/16"})
	if err != nil {
		t.Fatal(err)
	}
	filter := NewFilter(FilterOptions{Policy: policy, Servers: servers, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(filter.Close)
	gate := new(fakeGate)
	if err := filter.AddGate(gate); err != nil {
		t.Fatal(err)
	}
	return filter, gate
}

// ask asks a filter as a client does.
func ask(t *testing.T, filter *Filter, kind byte, name string, qtype, size uint16) *dns.Msg {
	t.Helper()
	question := new(dns.Msg).SetQuestion(name, qtype)
	if size > 0 {
		question.SetEdns0(size, false)
	}
	packed, err := question.Pack()
	if err != nil {
		t.Fatal(err)
	}
	answer := new(dns.Msg)
	if err := answer.Unpack(filter.answer(t.Context(), kind, packed)); err != nil {
		t.Fatal(err)
	}
	if answer.Id != question.Id || !answer.Response || !answer.RecursionAvailable {
		t.Errorf("%s: answered %v", name, answer)
	}
	return answer
}

// testZone has names of every kind. The alias leads over a name that is not allowed itself.
var testZone = map[string][]string{
	"allowed.test.":    {"allowed.test. 60 IN A 192.0.2.1", "elsewhere.test. 60 IN A 192.0.2.9", "allowed.test. 86400 IN A 192.0.2.2"},
	"a.wild.test.":     {"a.wild.test. 60 IN CNAME edge.cdn.test.", "edge.cdn.test. 30 IN A 192.0.2.3"},
	"b.wild.test.":     {"b.wild.test. 60 IN AAAA 2001:db8::3", "b.wild.test. 60 IN A 192.0.2.8"},
	"near.wild.test.":  {"near.wild.test. 60 IN A 169.254.169.254", "near.wild.test. 60 IN A 10.1.2.3", "near.wild.test. 60 IN A 10.2.2.3"},
	"local.wild.test.": {"local.wild.test. 60 IN A 127.0.0.1"},
	"loop.wild.test.":  {"loop.wild.test. 60 IN CNAME pool.wild.test.", "pool.wild.test. 60 IN CNAME loop.wild.test."},
	"mail.wild.test.":  {"mail.wild.test. 60 IN MX 10 mx.test.", "mx.test. 60 IN A 192.0.2.7"},
	"other.test.":      {"other.test. 60 IN A 192.0.2.5"},
}

func TestFilter(t *testing.T) {
	server := newNameServer(t, testZone)
	for _, test := range []struct {
		name     string
		qtype    uint16
		rcode    int
		answers  int
		admitted string
		asked    bool
	}{
		{"allowed.test.", dns.TypeA, dns.RcodeSuccess, 2, "192.0.2.1 192.0.2.2", true},
		{"ALLOWED.test.", dns.TypeA, dns.RcodeNameError, 0, "", true}, // the test's server minds the case
		{"a.wild.test.", dns.TypeA, dns.RcodeSuccess, 2, "192.0.2.3", true},
		{"b.wild.test.", dns.TypeAAAA, dns.RcodeSuccess, 1, "2001:db8::3", true},
		{"near.wild.test.", dns.TypeA, dns.RcodeSuccess, 1, "10.1.2.3", true},
		{"local.wild.test.", dns.TypeA, dns.RcodeSuccess, 0, "", true},
		{"loop.wild.test.", dns.TypeA, dns.RcodeServerFailure, 0, "", true},
		{"mail.wild.test.", dns.TypeMX, dns.RcodeSuccess, 1, "", true},
		{"none.wild.test.", dns.TypeA, dns.RcodeNameError, 0, "", true},
		{"allowed.test.", dns.TypeHTTPS, dns.RcodeSuccess, 0, "", false},
		{"allowed.test.", dns.TypeANY, dns.RcodeSuccess, 0, "", false},
		{"other.test.", dns.TypeA, dns.RcodeNameError, 0, "", false},
		{"wild.test.", dns.TypeA, dns.RcodeNameError, 0, "", false},
		{".", dns.TypeNS, dns.RcodeNameError, 0, "", false},
		{"1.2.0.192.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError, 0, "", false},
	} {
		filter, gate := newTestFilter(t, server.address)
		before := len(server.questions())
		answer := ask(t, filter, protocol.ResolverDatagrams, test.name, test.qtype, ednsSize)
		if answer.Rcode != test.rcode || len(answer.Answer) != test.answers || gate.list() != test.admitted {
			t.Errorf("%s: %v, admitted %q", test.name, answer, gate.list())
		}
		if asked := len(server.questions()) > before; asked != test.asked {
			t.Errorf("%s: asked: %v", test.name, asked)
		}
		for _, record := range slices.Concat(answer.Answer, answer.Ns) {
			if record.Header().Ttl > maxTTL {
				t.Errorf("%s: %v is good for too long", test.name, record)
			}
		}
	}
}

// TestFilterFloodsNoLog has a guest that asks without end what is not answered.
func TestFilterFloodsNoLog(t *testing.T) {
	var log bytes.Buffer
	filter, _ := newTestFilter(t, newNameServer(t, testZone).address)
	filter.logger = slog.New(slog.NewTextHandler(&log, nil))
	began := time.Now()
	for range 30 {
		for _, name := range []string{"loop.wild.test.", "local.wild.test.", "other.test."} {
			ask(t, filter, protocol.ResolverDatagrams, name, dns.TypeA, 0)
		}
	}
	most := int(time.Since(began).Seconds()*logsPerSecond) + logsPerSecond + 1
	if lines := bytes.Count(log.Bytes(), []byte("\n")); lines == 0 || lines > most {
		t.Errorf("%d lines of log, want at most %d", lines, most)
	}
}

// TestFilterRefusesAloud tells a client that can read it why a name does not exist.
func TestFilterRefusesAloud(t *testing.T) {
	filter, _ := newTestFilter(t)
	options := ask(t, filter, protocol.ResolverStream, "other.test.", dns.TypeA, ednsSize).IsEdns0()
	if options == nil || len(options.Option) != 1 || options.Option[0].(*dns.EDNS0_EDE).InfoCode != dns.ExtendedErrorCodeProhibited {
		t.Errorf("got %v", options)
	}
	if options := ask(t, filter, protocol.ResolverStream, "other.test.", dns.TypeA, 0).IsEdns0(); options != nil {
		t.Errorf("options for a client without: %v", options)
	}
}

// TestFilterLength asks again over TCP what is too long for UDP, and cuts what is too long for the guest's client.
func TestFilterLength(t *testing.T) {
	zone := map[string][]string{}
	for i := range 60 {
		zone["allowed.test."] = append(zone["allowed.test."], fmt.Sprintf("allowed.test. 60 IN A 192.0.2.%d", i))
	}
	server := newNameServer(t, zone)
	filter, gate := newTestFilter(t, server.address)
	for _, test := range []struct {
		kind byte
		size uint16
		cut  bool
	}{
		{protocol.ResolverStream, 0, false}, {protocol.ResolverDatagrams, 0, true}, {protocol.ResolverDatagrams, 512, true},
		{protocol.ResolverDatagrams, 4096, false},
	} {
		answer := ask(t, filter, test.kind, "allowed.test.", dns.TypeA, test.size)
		if answer.Truncated != test.cut || !test.cut && len(answer.Answer) != 60 {
			t.Errorf("%+v: %d answers, cut: %v", test, len(answer.Answer), answer.Truncated)
		}
	}
	if got := len(strings.Fields(gate.list())); got != 60 {
		t.Errorf("%d addresses are admitted", got)
	}
	if asked := server.questions()[:2]; !slices.Equal(asked, []string{"udp allowed.test.", "tcp allowed.test."}) {
		t.Errorf("asked %q", asked)
	}
}

// TestFilterServers asks the next server if one fails, and answers if all do.
func TestFilterServers(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := silent.LocalAddr().(*net.UDPAddr).AddrPort()
	silent.Close()
	server := newNameServer(t, testZone)
	filter, gate := newTestFilter(t, closed, server.address)
	if answer := ask(t, filter, protocol.ResolverStream, "allowed.test.", dns.TypeA, 0); len(answer.Answer) != 2 {
		t.Errorf("got %v", answer)
	}
	filter.UseServers(nil)
	filter.UseServers([]netip.AddrPort{server.address})
	filter.UseServers([]netip.AddrPort{closed}) // those named first are asked
	if answer := ask(t, filter, protocol.ResolverStream, "b.wild.test.", dns.TypeAAAA, 0); len(answer.Answer) != 1 {
		t.Errorf("got %v", answer)
	}
	gate.refuse = errors.New("no room")
	if answer := ask(t, filter, protocol.ResolverStream, "a.wild.test.", dns.TypeA, 0); answer.Rcode != dns.RcodeServerFailure {
		t.Errorf("told an address that is not admitted: %v", answer)
	}
	for _, servers := range [][]netip.AddrPort{nil, {closed}} {
		filter, _ := newTestFilter(t, servers...)
		if answer := ask(t, filter, protocol.ResolverStream, "allowed.test.", dns.TypeA, 0); answer.Rcode != dns.RcodeServerFailure {
			t.Errorf("%v: got %v", servers, answer)
		}
	}
}

func TestFilterBadQuestions(t *testing.T) {
	filter, _ := newTestFilter(t)
	pack := func(change func(*dns.Msg)) []byte {
		question := new(dns.Msg).SetQuestion("allowed.test.", dns.TypeA)
		change(question)
		packed, err := question.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return packed
	}
	for name, test := range map[string]struct {
		question []byte
		rcode    int // -1: no answer
	}{
		"nothing":       {nil, -1},
		"noise":         {[]byte(strings.Repeat("x", 100)), -1},
		"an answer":     {pack(func(m *dns.Msg) { m.Response = true }), -1},
		"an update":     {pack(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), dns.RcodeNotImplemented},
		"no question":   {pack(func(m *dns.Msg) { m.Question = nil }), dns.RcodeFormatError},
		"two":           {pack(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), dns.RcodeFormatError},
		"another class": {pack(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeFormatError},
	} {
		packed := filter.answer(t.Context(), protocol.ResolverStream, test.question)
		if test.rcode < 0 {
			if packed != nil {
				t.Errorf("%s: answered %x", name, packed)
			}
			continue
		}
		answer := new(dns.Msg)
		if err := answer.Unpack(packed); err != nil || answer.Rcode != test.rcode {
			t.Errorf("%s: %v, %v", name, answer, err)
		}
	}
}

// pipes is a listener for connections within the test.
type pipes chan net.Conn

func (p pipes) Accept(ctx context.Context) (net.Conn, error) {
	select {
	case conn := <-p:
		return conn, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestServe answers several connections, and hangs up on nonsense and at its end.
func TestServe(t *testing.T) {
	server := newNameServer(t, testZone)
	filter, _ := newTestFilter(t, server.address)
	listener := make(pipes)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- filter.Serve(ctx, listener) }()
	dial := func(begin string) net.Conn {
		guest, host := net.Pipe()
		t.Cleanup(func() { guest.Close() })
		listener <- host
		guest.SetDeadline(time.Now().Add(testTimeout))
		if _, err := guest.Write([]byte(begin)); err != nil {
			t.Fatal(err)
		}
		return guest
	}
	question, err := new(dns.Msg).SetQuestion("allowed.test.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	conns := []net.Conn{dial("\x00"), dial("\x01")}
	for range 2 {
		for _, conn := range conns {
			if err := protocol.WriteDNS(conn, question); err != nil {
				t.Fatal(err)
			}
			if answer, err := protocol.ReadDNS(conn, protocol.MaxAnswer); err != nil || len(answer) < len(question) {
				t.Errorf("answer %x, %v", answer, err)
			}
		}
	}
	for _, begin := range []string{"\x02", "\x01\xff\xff"} {
		if n, err := dial(begin).Read(make([]byte, 1)); err == nil {
			t.Errorf("%q: got %d bytes", begin, n)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v", err)
	}
	if _, err := conns[0].Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives the service")
	}
}

func FuzzAnswer(f *testing.F) {
	filter := NewFilter(FilterOptions{Logger: slog.New(slog.DiscardHandler)})
	question, err := new(dns.Msg).SetQuestion("allowed.test.", dns.TypeA).SetEdns0(ednsSize, true).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(byte(0), question)
	f.Add(byte(1), question[:12])
	f.Fuzz(func(t *testing.T, kind byte, question []byte) {
		answer := filter.answer(t.Context(), kind, question)
		if answer == nil {
			return
		}
		if err := new(dns.Msg).Unpack(answer); err != nil {
			t.Errorf("the answer is none: %v", err)
		}
		if kind == protocol.ResolverDatagrams && len(answer) > maxUDP {
			t.Errorf("an answer of %d bytes", len(answer))
		}
	})
}
