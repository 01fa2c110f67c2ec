package main

import (
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// patience is how long something may take before a person is told what it is, and how far.
const patience = time.Second

// meter is a progress bar at a terminal for what takes its time; without a terminal it is nothing. It counts what is written to it.
type meter struct {
	bar   *progressbar.ProgressBar // nil: there is no terminal
	began time.Time
	done  int64
}

// newMeter makes one for a number of bytes; -1: nobody knows how many.
func newMeter(screen io.Writer, text string, bytes int64) *meter {
	return makeMeter(screen, bytes, progressbar.OptionSetDescription(text), progressbar.OptionShowBytes(true),
		progressbar.OptionShowTotalBytes(true))
}

// newPercentMeter makes one for percents.
func newPercentMeter(screen io.Writer, text string) *meter {
	return makeMeter(screen, 100, progressbar.OptionSetDescription(text))
}

func makeMeter(screen io.Writer, whole int64, options ...progressbar.Option) *meter {
	if !isTerminal(screen) {
		return &meter{}
	}
	options = append(options, progressbar.OptionSetWriter(screen), progressbar.OptionUseIECUnits(true), progressbar.OptionFullWidth(),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	return &meter{bar: progressbar.NewOptions64(whole, options...), began: time.Now()}
}

// Write implements io.Writer. It never fails.
func (m *meter) Write(data []byte) (int, error) {
	m.set(m.done + int64(len(data)))
	return len(data), nil
}

// set tells how much is done.
func (m *meter) set(done int64) {
	m.done = done
	if m.bar != nil && time.Since(m.began) > patience {
		_ = m.bar.Set64(done) // it is only a bar
	}
}

// describe tells what is being done.
func (m *meter) describe(text string) {
	if m.bar != nil && time.Since(m.began) > patience {
		m.bar.Describe(text)
	}
}

// clear removes the bar.
func (m *meter) clear() {
	if m.bar != nil && time.Since(m.began) > patience {
		_ = m.bar.Clear()
	}
}
