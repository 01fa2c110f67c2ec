package container

import (
	"context"
	"fmt"
	"os"
)

// freeze stops every process of the group, or lets them go on, and waits until the kernel says that it is so.
func (g cgroup) freeze(ctx context.Context, frozen bool) error {
	want := uint64(0)
	if frozen {
		want = 1
	}
	events, err := watch(g.file("cgroup.events"))
	if err != nil {
		return err
	}
	defer events.close()
	stop := context.AfterFunc(ctx, events.close)
	defer stop()
	if err := os.WriteFile(g.file("cgroup.freeze"), fmt.Append(nil, want), 0); err != nil {
		return err
	}
	for {
		now, err := g.keyed("cgroup.events", "frozen")
		if err != nil || now == want {
			return err
		}
		if err := events.next(); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
	}
}
