package container

// watchOOM reports out-of-memory kills as they happen. Without a memory controller there are none.
func (c *Container) watchOOM() {
	events, err := watch(c.cgroup.file("memory.events"))
	if err != nil {
		c.logger.Debug("out-of-memory kills are not noticed", "error", err)
		return
	}
	c.oomEvents = events
	go func() {
		for events.next() == nil {
			c.reportOOM()
		}
	}()
}

// reportOOM reports the kills that were not reported yet, and returns how many there were in all. An exit that may be one's consequence
// is reported after it.
func (c *Container) reportOOM() uint64 {
	kills := c.cgroup.oomKills()
	c.set.mu.Lock()
	news := kills > c.oomKills
	if news {
		c.oomKills = kills
	}
	p := c.init
	c.set.mu.Unlock()
	if news {
		<-p.announced
		c.set.reporter.OOM(c.id)
	}
	return kills
}
