package integration

import (
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/limpet-run/limpet/integration/harness"
)

// The world of the tests of egress policies is in the run's network namespace: servers with a page, and a name server, beside which one of
// the others is a name server too.
const (
	egressAllowed  = "192.0.2.1"
	egressOther    = "192.0.2.2"
	egressRange    = "198.51.100.7"
	egressServer   = "192.0.2.53"
	egressAllowed6 = "2001:db8::1"
	egressOther6   = "2001:db8::2"
)

// egressZone is what the name server knows.
var egressZone = map[string][]string{
	"allowed.test.": {"allowed.test. 60 IN A " + egressAllowed, "allowed.test. 60 IN AAAA " + egressAllowed6},
	"other.test.":   {"other.test. 60 IN A " + egressOther, "other.test. 60 IN AAAA " + egressOther6},
}

// egressWorld makes that world. It goes with the test.
func (s *scope) egressWorld() {
	s.Helper()
	for _, address := range []string{egressAllowed, egressOther, egressRange, egressServer, egressAllowed6, egressOther6} {
		bits, flag := "/32", ""
		if strings.Contains(address, ":") {
			bits, flag = "/128", "nodad" // it can be listened at then
		}
		s.ip("-n %s address add %s%s dev lo %s", daemon.Namespace, address, bits, flag)
		s.Cleanup(func() {
			if err := harness.Run(exec.Command("ip", "-n", daemon.Namespace, "address", "delete", address+bits, "dev", "lo")).Err(); err != nil {
				s.Error(err)
			}
		})
		if address == egressServer {
			continue
		}
		page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "page of %s\n", address) })
		server := &http.Server{Handler: page}
		go server.Serve(s.listen(net.JoinHostPort(address, "80")))
		s.Cleanup(func() { server.Close() })
	}
	for _, address := range []string{egressServer, egressOther} {
		var packets net.PacketConn
		s.must(daemon.Within(func() (err error) {
			packets, err = net.ListenPacket("udp", net.JoinHostPort(address, "53"))
			return err
		}))
		for _, server := range []*dns.Server{{PacketConn: packets}, {Listener: s.listen(net.JoinHostPort(address, "53"))}} {
			server.Handler = dns.HandlerFunc(answerFromZone)
			go server.ActivateAndServe()
			s.Cleanup(func() { server.Shutdown() })
		}
	}
}

// listen listens in the run's network namespace.
func (s *scope) listen(address string) net.Listener {
	s.Helper()
	var listener net.Listener
	s.must(daemon.Within(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	}))
	return listener
}

func answerFromZone(w dns.ResponseWriter, question *dns.Msg) {
	reply := new(dns.Msg).SetReply(question)
	lines, ok := egressZone[question.Question[0].Name]
	if !ok {
		reply.Rcode = dns.RcodeNameError
	}
	for _, line := range lines {
		if record, err := dns.NewRR(line); err == nil && record.Header().Rrtype == question.Question[0].Qtype {
			reply.Answer = append(reply.Answer, record)
		}
	}
	w.WriteMsg(reply)
}

// egressTries is a script that tries to reach the world in each way there is, and says how each try ended and how long it took.
var egressTries = strings.NewReplacer("ALLOWED6", egressAllowed6, "OTHER6", egressOther6, "ALLOWED", egressAllowed, "OTHER", egressOther,
	"RANGE", egressRange).Replace(`
try() {
	name=$1; shift
	begin=$(cut -d' ' -f1 /proc/uptime)
	"$@" </dev/null >/tmp/said 2>&1; code=$?
	echo "$name: $code $begin $(cut -d' ' -f1 /proc/uptime) $(tr '\n' ' ' </tmp/said)"
}
mkdir -p /tmp
page() { printf 'GET / HTTP/1.0\r\n\r\n' | nc "$@"; }
try early-address page ALLOWED 80
try resolve nslookup -type=a allowed.test
try resolve6 nslookup -type=aaaa allowed.test
try resolve-other nslookup -type=a other.test
try allowed page ALLOWED 80
try allowed6 page ALLOWED6 80
try range page RANGE 80
try other page OTHER 80
try other6 page OTHER6 80
try other-dns page OTHER 53
`)

// wantEgress checks what the script said.
func wantEgress(t *testing.T, said string) {
	t.Helper()
	line := regexp.MustCompile(`(?m)^([a-z0-9-]+): (\d+) ([\d.]+) ([\d.]+) (.*)$`)
	found := map[string][]string{}
	for _, match := range line.FindAllStringSubmatch(said, -1) {
		found[match[1]] = match
	}
	const refused, noSuchName = "Connection refused", "NXDOMAIN"
	for name, want := range map[string]string{
		"resolve": egressAllowed, "resolve6": egressAllowed6, "allowed": "page of " + egressAllowed, "allowed6": "page of " + egressAllowed6,
		"range": "page of " + egressRange, "early-address": refused, "resolve-other": noSuchName, "other": refused, "other6": refused,
		"other-dns": refused,
	} {
		match := found[name]
		if match == nil {
			t.Errorf("%s: not tried: %s", name, said)
			continue
		}
		begin, _ := strconv.ParseFloat(match[3], 64)
		end, _ := strconv.ParseFloat(match[4], 64)
		// What is reached may take longer: IPv6 makes sure of a new bridge's address first.
		if took := time.Duration((end - begin) * float64(time.Second)); took > time.Second && (want == refused || want == noSuchName) {
			t.Errorf("%s took %v", name, took)
		}
		if !strings.Contains(match[5], want) {
			t.Errorf("%s: ended with %s: %s", name, match[2], match[5])
		}
	}
}

// egressAnnotations are what the world's policy is told by.
var egressAnnotations = map[string]string{"io.limpet.egress.hosts": "allowed.test", "io.limpet.egress.cidrs": "198.51.100.0/24"}

// TestEgress lets a container reach what its annotations name, and nothing else, which fails within a second.
func TestEgress(t *testing.T) {
	s := limpetOnly(t)
	pod := s.netns("pod")
	s.wire(pod, daemon.Namespace)
	s.egressWorld()
	s.configure(map[string]any{"egress": map[string]any{"nameservers": []string{egressServer}}})
	flags := []string{"--with-ns", "network:/run/netns/" + pod}
	for name, value := range egressAnnotations {
		flags = append(flags, "--annotation", name+"="+value)
	}
	c := s.sleeper(flags...)
	result := c.exec(nil, "sh", "-c", egressTries)
	s.must(result.Err())
	wantEgress(t, result.Stdout)
	if log := daemon.Log(); !strings.Contains(log, "refused by the egress policy") || !strings.Contains(log, "tcp "+egressOther+":80") {
		t.Error("the log does not tell what was refused")
	}
	// Who comes from outside is answered.
	if result := s.within(daemon.Namespace, "busybox", "ping", "-c", "1", "-W", "10", "10.9.0.2"); result.Err() != nil {
		t.Errorf("ping the container: %v: %s", result.Err(), result.Stdout)
	}
}

// TestPodEgress does so for all containers of a pod, which names its own name server.
func TestPodEgress(t *testing.T) {
	eachLimpetMode(t, func(s *podScope) {
		s.egressWorld()
		config := s.podConfig()
		config.Annotations = egressAnnotations
		config.DnsConfig = &cri.DNSConfig{Servers: []string{egressServer}, Searches: []string{"cluster.test"}}
		p := s.run(config)
		first := p.sleeper("first")
		wantEgress(s.T, p.execSync(first, "sh", "-c", egressTries))
		p.wantExec("nameserver 127.0.0.1\nsearch cluster.test", p.sleeper("second"), "cat", "/etc/resolv.conf")
	})
}

// TestRunEgress does so without containerd, for a network of limpet's own, which is gone with the run.
func TestRunEgress(t *testing.T) {
	s := limpetOnly(t)
	s.egressWorld()
	s.configure(map[string]any{
		"egress": map[string]any{"nameservers": []string{egressServer}},
		"network": map[string]any{
			"plugin_dirs": []string{daemon.Build.Path("bin/cni")}, "leases_dir": s.TempDir(),
			"subnets": []string{"10.143.0.0/24", "fd43::/64"}, "masquerade": false, // nobody is beyond the bridge
		},
	})
	s.Cleanup(func() { // the bridge stays for the next run
		if err := harness.Run(exec.Command("ip", "-n", daemon.Namespace, "link", "delete", "limpet0")).Err(); err != nil {
			t.Error(err)
		}
	})
	result := harness.Run(daemon.Command(s.ctx, daemon.Build.Path("bin/limpet"), "run", "--config", s.config,
		"--allow-host", "allowed.test", "--allow-cidr", "198.51.100.0/24", s.rootfs(), "--", "sh", "-c", egressTries))
	s.must(result.Err())
	wantEgress(t, result.Stdout)
}
