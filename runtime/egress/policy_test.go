package egress

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestNew(t *testing.T) {
	policy, err := New([]string{"Example.org.", "*.example.com", "_srv.a-b.test"},
		[]string{"192.0.2.77/24", "2001:db8::1", "10.0.0.1", "::ffff:10.0.0.2"})
	if err != nil {
		t.Fatal(err)
	}
	var ranges []string
	for _, prefix := range policy.Ranges() {
		ranges = append(ranges, prefix.String())
	}
	if want := []string{"192.0.2.0/24", "2001:db8::1/128", "10.0.0.1/32", "10.0.0.2/32"}; !slices.Equal(ranges, want) {
		t.Errorf("ranges %v, want %v", ranges, want)
	}
}

func TestNewRefuses(t *testing.T) {
	long := strings.Repeat("a", 64)
	for _, test := range []struct {
		name   string
		hosts  []string
		ranges []string
	}{
		{"empty name", []string{""}, nil},
		{"a dot", []string{"."}, nil},
		{"everything", []string{"*"}, nil},
		{"everything with a dot", []string{"*."}, nil},
		{"star inside", []string{"a.*.org"}, nil},
		{"star in a part", []string{"a*.org"}, nil},
		{"empty part", []string{"a..org"}, nil},
		{"long part", []string{long + ".org"}, nil},
		{"long name", []string{strings.Repeat("a.", 127) + "ab"}, nil},
		{"address", []string{"192.0.2.1"}, nil},
		{"IPv6 address", []string{"2001:db8::1"}, nil},
		{"with a port", []string{"example.org:443"}, nil},
		{"URL", []string{"https://example.org"}, nil},
		{"other letters", []string{"exämple.org"}, nil},
		{"too many hosts", slices.Repeat([]string{"a"}, MaxHosts+1), nil},
		{"no range", nil, []string{"example.org"}},
		{"long prefix", nil, []string{"192.0.2.0/33"}},
		{"mapped", nil, []string{"::ffff:10.0.0.0/104"}},
		{"zone", nil, []string{"fe80::1%eth0"}},
		{"too many ranges", nil, slices.Repeat([]string{"10.0.0.1"}, MaxRanges+1)},
	} {
		if _, err := New(test.hosts, test.ranges); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestAllowsName(t *testing.T) {
	policy, err := New([]string{"example.org", "*.example.com"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"example.org": true, "EXAMPLE.org.": true, "www.example.org": false, "example.org.evil.test": false, "notexample.org": false,
		"a.example.com": true, "a.B.example.com.": true, "example.com": false, "notexample.com": false, "": false, ".": false,
		`x\.example.com`: false, `a.x\.example.com`: false, `\001.example.com`: false, "_dmarc.example.com": true,
	} {
		if got := policy.AllowsName(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
	if (Policy{}).AllowsName("example.org") || (Policy{}).AllowsAddress(netip.MustParseAddr("192.0.2.1")) {
		t.Error("the empty policy allows something")
	}
}

// TestAcceptsAnswer keeps names from leading to what is near the host, unless a range says so.
func TestAcceptsAnswer(t *testing.T) {
	policy, err := New([]string{"example.org"}, []string{"10.1.0.0/16", "fd00::/64"})
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]bool{
		"93.184.215.14": true, "2606:2800:21f::1": true, "10.1.2.3": true, "fd00::5": true, "::ffff:10.1.2.3": true,
		"10.2.0.1": false, "127.0.0.1": false, "169.254.169.254": false, "0.0.0.0": false, "192.168.1.1": false, "172.31.0.1": false,
		"100.64.0.1": false, "224.0.0.1": false, "255.255.255.255": false, "::1": false, "::": false, "fe80::1": false, "fd01::1": false,
		"::ffff:192.168.0.1": false, "64:ff9b::a00:1": false, "2002:a00:1::": false, "ff02::1": false, "fd00:ec2::254": false,
	} {
		if got := policy.AcceptsAnswer(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}
