package egress

import (
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
)

func TestParseServer(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1": "192.0.2.1:53", "2001:db8::1": "[2001:db8::1]:53", "192.0.2.1:5353": "192.0.2.1:5353", "[::1]:54": "[::1]:54",
		"": "", "ns.test": "", "192.0.2.1:0": "", "192.0.2.1:x": "",
	} {
		server, err := ParseServer(text)
		if want == "" && !errdefs.IsInvalidArgument(err) || want != "" && (err != nil || server.String() != want) {
			t.Errorf("%q: %v, %v", text, server, err)
		}
	}
}

func TestResolvConf(t *testing.T) {
	const text = "# by somebody\nsearch a.test  b.test\nnameserver 10.96.0.10\n nameserver fe80::1%eth0 \nnameserver\nnameserver x\n" +
		"options ndots:5\nsortlist 10.0.0.0\nnameserver 192.0.2.1\nnameserver 192.0.2.2"
	if got := fmt.Sprint(Servers(text)); got != "[10.96.0.10:53 [fe80::1%eth0]:53 192.0.2.1:53]" {
		t.Errorf("name servers: %s", got)
	}
	if got, want := ForGuest(text), "nameserver 127.0.0.1\nsearch a.test b.test\noptions ndots:5\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := ForGuest(""), "nameserver 127.0.0.1\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
