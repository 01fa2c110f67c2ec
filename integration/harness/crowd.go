package harness

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Crowd is many pods that were started at once.
type Crowd struct {
	Ready []time.Duration // of each pod: from the start of all to the start of its last container

	d     *Daemon
	names []string
	mu    sync.Mutex
	pods  []*Pod
}

// StartCrowd starts n pods at once, each with so many containers that do nothing, and waits until all are ready. The names of the pods
// begin with prefix, and the handlers take turns. The caller removes the crowd, after an error too.
func (d *Daemon) StartCrowd(ctx context.Context, handlers []string, prefix string, n, containers int) (*Crowd, error) {
	c := &Crowd{d: d}
	var group errgroup.Group // one that fails does not end the others half-way
	began := time.Now()
	for i := range n {
		name := fmt.Sprintf("%s-%d", prefix, i)
		c.names = append(c.names, name)
		group.Go(func() error {
			pod, err := d.RunPod(ctx, handlers[i%len(handlers)], d.PodConfig(name))
			if err != nil {
				return err
			}
			c.mu.Lock()
			c.pods = append(c.pods, pod)
			c.mu.Unlock()
			for j := range containers {
				if _, err := pod.Start(ctx, ContainerConfig(fmt.Sprintf("sleeper-%d", j), "sleep", "1000000")); err != nil {
					return err
				}
			}
			c.mu.Lock()
			c.Ready = append(c.Ready, time.Since(began))
			c.mu.Unlock()
			return nil
		})
	}
	return c, group.Wait()
}

// Remove removes all pods at once, and their cgroups.
func (c *Crowd) Remove(ctx context.Context) error {
	var group errgroup.Group
	for _, pod := range c.pods {
		group.Go(func() error { return pod.Remove(ctx) })
	}
	errs := []error{group.Wait()}
	for _, name := range c.names {
		errs = append(errs, c.d.PodCgroup(name).Remove())
	}
	return errors.Join(errs...)
}
