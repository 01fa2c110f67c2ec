package sysctl

import "testing"

func TestName(t *testing.T) {
	for name, want := range map[string]string{
		"kernel.shmmax":            "kernel/shmmax",
		"kernel/shmmax":            "kernel/shmmax",
		"net.ipv4.conf.eth0/1.arp": "net/ipv4/conf/eth0.1/arp",
		"net/ipv4/conf/eth0.1/arp": "net/ipv4/conf/eth0.1/arp",
		"kernel":                   "kernel",
		"kernel/../vm/x":           "",
		"kernel.//.vm":             "",
		"/etc/passwd":              "",
		"":                         "",
	} {
		if got := Name(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	if got := File("kernel/shmmax"); got != "/proc/sys/kernel/shmmax" {
		t.Error(got)
	}
}
