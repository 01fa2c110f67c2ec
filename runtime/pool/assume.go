package pool

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/cgroup"
)

// Assume makes this process what it would be as the asker's child: its directory, environment, file mode mask, limits, cgroup, and score for
// the killer of processes, which those of its own process groups get too. After an error it is half of both.
func Assume(request Request, asker int, groups []hypervisor.Process) error {
	if err := os.Chdir(request.Bundle); err != nil {
		return err
	}
	os.Clearenv()
	for _, variable := range request.Environment {
		name, value, _ := strings.Cut(variable, "=")
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("variable %q of the environment: %w", name, err)
		}
	}
	if err := assumeMask(asker); err != nil {
		return err
	}
	if err := assumeLimits(asker); err != nil {
		return err
	}
	if err := assumeScore(asker, groups); err != nil {
		return err
	}
	host := cgroup.ThisHost()
	place, err := host.Of(asker)
	if err != nil {
		return err
	}
	return host.Move([]int{os.Getpid()}, place)
}

// assumeScore makes this process, and groups of others, ones that the host kills before the asker's parent. Where that is not permitted they
// stay as they are.
func assumeScore(asker int, groups []hypervisor.Process) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", asker))
	if err != nil {
		return err
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("the score of process %d: %w", asker, err)
	}
	const most = 1000
	pids := []int{os.Getpid()}
	for _, group := range groups {
		members, err := group.Group()
		if err != nil {
			return err
		}
		pids = append(pids, members...)
	}
	for _, pid := range pids {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(min(score+1, most))), 0)
	}
	return nil
}

func assumeMask(asker int) error {
	status, err := statusOf(strconv.Itoa(asker))
	if err != nil {
		return err
	}
	mask, err := strconv.ParseUint(status["Umask"], 8, 32)
	if err != nil {
		return fmt.Errorf("the file mode mask of process %d: %w", asker, err)
	}
	unix.Umask(int(mask))
	return nil
}

// limit is a resource limit that the asker has otherwise than this process.
type limit struct {
	resource  int
	own, want unix.Rlimit
}

// otherLimits lists those that are others. Of open files the soft one is not looked at: a program in Go has raised it.
func otherLimits(asker int) ([]limit, error) {
	var others []limit
	for resource := range unix.RLIMIT_RTTIME + 1 { // the last
		other := limit{resource: resource}
		if err := errors.Join(unix.Prlimit(0, resource, nil, &other.own), unix.Prlimit(asker, resource, nil, &other.want)); err != nil {
			return nil, fmt.Errorf("look at resource limit %d: %w", resource, err)
		}
		if other.own != other.want && (resource != unix.RLIMIT_NOFILE || other.own.Max != other.want.Max) {
			others = append(others, other)
		}
	}
	return others, nil
}

// checkLimits tells which limit of the asker's this process cannot have.
func checkLimits(asker int) error {
	others, err := otherLimits(asker)
	if err != nil {
		return err
	}
	status, err := statusOf(self)
	if err != nil {
		return err
	}
	capabilities, err := strconv.ParseUint(status["CapEff"], 16, 64)
	if err != nil {
		return fmt.Errorf("the capabilities of this process: %w", err)
	}
	for _, other := range others {
		if other.own.Max < other.want.Max && capabilities&(1<<unix.CAP_SYS_RESOURCE) == 0 {
			return fmt.Errorf("resource limit %d is lower than the asker's and cannot be raised: %w", other.resource, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

func assumeLimits(asker int) error {
	others, err := otherLimits(asker)
	if err != nil {
		return err
	}
	for _, other := range others {
		if err := unix.Setrlimit(other.resource, &other.want); err != nil {
			return fmt.Errorf("take over resource limit %d: %w", other.resource, err)
		}
	}
	return nil
}

const (
	// lowPriority is that of a spare in the making: it gets a third of what others do.
	lowPriority = 5
	// autogroup groups processes by session for the scheduler, where it does so; priorities within one count less.
	autogroup = "/proc/self/autogroup"
)

// LowerPriority has this process, and those that it starts from now on, give way to others.
func LowerPriority() error { return setPriority(lowPriority, nil) }

// RestorePriority takes that back, for this process and for process groups that it has started.
func RestorePriority(groups []hypervisor.Process) error {
	var pids []int
	for _, group := range groups {
		pids = append(pids, group.PID)
	}
	return setPriority(0, pids)
}

// setPriority sets the priority of every thread of this process's group and of others.
func setPriority(nice int, groups []int) error {
	for _, group := range slices.Concat([]int{0}, groups) {
		if err := unix.Setpriority(unix.PRIO_PGRP, group, nice); err != nil {
			return fmt.Errorf("set the priority of process group %d: %w", group, err)
		}
	}
	if err := os.WriteFile(autogroup, []byte(strconv.Itoa(nice)), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("set the priority of the session: %w", err)
	}
	return nil
}
