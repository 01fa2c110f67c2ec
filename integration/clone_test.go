package integration

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/integration/harness"
	limpet "github.com/limpet-run/limpet/runtime"
)

const (
	// manyClones is how many clones have to differ, clonesAtOnce how many of them start at the same time.
	manyClones, clonesAtOnce = 20, 5
	// maxClockError is how far a clone's clock may be from the host's.
	maxClockError = 50 * time.Millisecond
	// clockReadings is how often a clock is read: the reading that took the least time says most.
	clockReadings = 8
)

// clonesOnly begins a test of clones. A run in which all sandboxes boot has none.
func clonesOnly(t *testing.T) *scope {
	t.Helper()
	skipWithoutTemplates(t)
	return limpetOnly(t)
}

func skipWithoutTemplates(t *testing.T) {
	t.Helper()
	if os.Getenv(harness.TemplatesVariable) == "off" {
		t.Skip("this run is without templates")
	}
}

// useTemplates has the containers to come be clones of templates of their own, and returns the directory of these, which is not there yet.
// The keys of changes are added to the configuration.
func (s *scope) useTemplates(changes map[string]any) string {
	s.Helper()
	dir := filepath.Join(s.TempDir(), "templates")
	all := map[string]any{"template": map[string]any{"enabled": true, "dir": dir}}
	for key, value := range changes {
		all[key] = value
	}
	s.configure(all)
	return dir
}

// template is the identifier of the template that the container's sandbox is a clone of; empty: it has booted.
func (c container) template() (string, error) {
	text, err := os.ReadFile(filepath.Join(limpet.StatePath(daemon.StateDir(), daemon.Namespace, c.id), "state.json"))
	if err != nil {
		return "", err
	}
	var record struct{ Template string }
	err = json.Unmarshal(text, &record)
	return record.Template, err
}

// TestClonesDiffer compares clones of one template: nothing by which a machine, or what it makes up, can be known is the same in two of
// them, and nothing of it is the template's. All of them have the host's time.
func TestClonesDiffer(t *testing.T) {
	s := clonesOnly(t)
	s.useTemplates(nil)
	var twins []container
	var group errgroup.Group
	group.SetLimit(clonesAtOnce)
	for i := range manyClones {
		netns := s.netns(fmt.Sprintf("clone-%d", i))
		s.ip("-n %s link add eth0 type veth peer name peer0", netns)
		s.ip("-n %s link set eth0 up", netns) // the other one stays down, and the container has none
		spec := s.spec([]string{"--detach", "--null-io", "--with-ns", "network:/run/netns/" + netns},
			"sh", "-c", "head -c 16 /dev/urandom >/first; exec sleep 1000000")
		twins = append(twins, container{s, spec.ID})
		group.Go(func() error { return daemon.Ctr(s.ctx, daemon.Args("run", spec)...).Err() })
	}
	s.must(group.Wait())

	var mu sync.Mutex
	owner := map[string]string{} // of each thing that is to be one clone's only
	templates := map[string]bool{}
	group.SetLimit(1) // so that a clock's reading takes little time
	for _, twin := range twins {
		group.Go(func() error {
			template, err := twin.template()
			if err != nil {
				return err
			}
			things, err := twin.identity()
			if err != nil {
				return fmt.Errorf("%s: %w", twin.id, err)
			}
			mu.Lock()
			defer mu.Unlock()
			templates[template] = true
			for what, value := range things {
				if value == "" {
					t.Errorf("%s has no %s", twin.id, what)
				}
				thing := what + " " + value
				if other := owner[thing]; other != "" {
					t.Errorf("%s and %s have the same %s", other, twin.id, thing)
				}
				owner[thing] = twin.id
			}
			return twin.checkClock()
		})
	}
	s.must(group.Wait())
	if len(templates) != 1 || templates[""] {
		t.Errorf("the sandboxes are clones of %v, want one template", templates)
	}
}

// identity is what is to be the clone's own, by what it is.
func (c container) identity() (map[string]string, error) {
	sandbox, err := limpet.FindSandbox(daemon.StateDir(), daemon.Namespace, c.id)
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(sandbox.Door(client.TokenFile))
	if err != nil {
		return nil, err
	}
	session, err := client.Open(c.ctx, sandbox.Dir, nil, slog.New(slog.NewTextHandler(c.Output(), nil)))
	if err != nil {
		return nil, err
	}
	hello, err := session.WaitReady(c.ctx)
	if err := errors.Join(err, session.Close()); err != nil {
		return nil, err
	}
	things := map[string]string{"token": string(token), "CID": fmt.Sprint(hello.CID), "name of the agent": hello.BootID}

	const random = "head -c 16 /dev/urandom | od -An -tx1"
	inside := c.exec(nil, "sh", "-c", "until [ -s /first ]; do sleep 0.1; done; od -An -tx1 /first; cat /sys/class/net/eth0/address; "+random)
	if err := inside.Err(); err != nil {
		return nil, err
	}
	conn, err := net.Dial("unix", sandbox.Door("agent.sock"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	outside, err := client.NewRequests(conn, "").Complete(c.ctx, protocol.VMExecRequest{Command: []string{"sh", "-c",
		"cd /proc/sys/kernel; cat random/boot_id random/uuid /etc/machine-id hostname; " + random}})
	if err != nil {
		return nil, err
	}
	for _, read := range []struct {
		text  string
		names []string
	}{
		{inside.Stdout, []string{"first random bytes of a container", "MAC", "random bytes of a container"}},
		{string(outside.Stdout), []string{"boot id", "UUID", "machine-id", "host name", "random bytes of the guest"}},
	} {
		lines := strings.Split(strings.TrimSpace(read.text), "\n")
		if len(lines) != len(read.names) {
			return nil, fmt.Errorf("%q are not one line for each of %q", lines, read.names)
		}
		for i, name := range read.names {
			things[name] = strings.TrimSpace(lines[i])
		}
	}
	return things, nil
}

// checkClock compares the container's clock with the host's. What is read in the container lies between two readings of the host.
func (c container) checkClock() error {
	cmd := daemon.CtrCommand(c.ctx, c.execArgs(nil, "sh", "-c", "while read line; do echo $EPOCHREALTIME; done")...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewReader(stdout)
	var before, clock, after time.Time
	for i := range clockReadings {
		began := time.Now()
		if _, err := io.WriteString(stdin, "\n"); err != nil {
			return err
		}
		line, err := lines.ReadString('\n')
		ended := time.Now()
		if err != nil {
			return err
		}
		seconds, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
		if err != nil {
			return err
		}
		if i == 0 || ended.Sub(began) < after.Sub(before) {
			before, clock, after = began, time.UnixMicro(int64(seconds*1e6)), ended
		}
	}
	c.Logf("%s: the clock says %s after one reading of the host, and %s before the next", c.id, clock.Sub(before), after.Sub(clock))
	if clock.Before(before.Add(-maxClockError)) || clock.After(after.Add(maxClockError)) {
		c.Errorf("%s: the clock said %s between %s and %s", c.id, clock, before, after)
	}
	return errors.Join(stdin.Close(), cmd.Wait())
}
