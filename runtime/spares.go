package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/limpet-run/limpet/hypervisor"
)

// SpareInfo is what is known of a spare without asking it.
type SpareInfo struct {
	Holder  HostProcess   `json:"holder"` // the process that is to become a sandbox's server
	Machine []HostProcess `json:"machine"`
	Parked  bool          `json:"parked"` // it waits; if not, it is being made
	Memory  uint64        `json:"memory"` // bytes that its processes cost this host
	Began   time.Time     `json:"began"`
}

// Spares returns the spares of a state directory whose holders live, the oldest first.
func Spares(stateDir string) ([]SpareInfo, error) {
	var spares []SpareInfo
	err := eachRecord(stateDir, func(_ string, record record) {
		if record.Spare == "" || !record.Holder.Lives() {
			return
		}
		info := SpareInfo{Holder: record.Holder, Machine: record.Machine, Parked: record.Spare == spareParked, Began: record.Began}
		for _, process := range append([]hypervisor.Process{record.Holder}, record.Machine...) {
			usage, _ := process.Usage() // it may just have ended
			info.Memory += usage.Memory
		}
		spares = append(spares, info)
	})
	slices.SortFunc(spares, func(a, b SpareInfo) int {
		return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(a.Holder.PID, b.Holder.PID))
	})
	return spares, err
}

// RemoveSpares removes what is left of spares whose holders are gone.
func RemoveSpares(ctx context.Context, stateDir string) error {
	var left []string
	err := eachRecord(stateDir, func(dir string, record record) {
		if record.Spare != "" && !record.Holder.Lives() {
			left = append(left, dir)
		}
	})
	for _, dir := range left {
		if removeErr := reclaim(ctx, dir); removeErr != nil {
			err = errors.Join(err, fmt.Errorf("remove what is left of a spare: %w", removeErr))
		}
	}
	return err
}
