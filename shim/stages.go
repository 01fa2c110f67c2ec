package shim

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/limpet-run/limpet/runtime"
)

// stages are what was done before a sandbox is made, each from the end of the one before. `start` tells the server of it.
type stages []runtime.Stage

// add ends a stage now. The first one began with the process.
func (s *stages) add(name string) {
	now := time.Now()
	var began time.Time
	if last := len(*s) - 1; last >= 0 {
		began = (*s)[last].Ended
	} else {
		began = processBegan(now)
	}
	*s = append(*s, runtime.Stage{Name: name, Began: began, Ended: now})
}

// text is what parse reads.
func (s stages) text() (string, error) {
	text, err := json.Marshal(s)
	return string(text), err
}

func (s *stages) parse(text string) error { return json.Unmarshal([]byte(text), s) }

// processBegan is when this process began, asked at the beginning of main. The kernel tells the time of a process's start in hundredths of
// a second, but in nanoseconds what its first thread has run and has waited for a processor, and before main that does nothing else.
func processBegan(main time.Time) time.Time {
	text, err := os.ReadFile("/proc/self/schedstat")
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 2 { // a kernel that does not count
		return main
	}
	run, _ := strconv.ParseInt(fields[0], 10, 64)
	waited, _ := strconv.ParseInt(fields[1], 10, 64)
	return main.Add(-time.Duration(run + waited))
}
