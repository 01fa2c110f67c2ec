package machine

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SetClock sets the wall clock to nanoseconds since the Unix epoch.
func SetClock(unixNano int64) error {
	now := unix.NsecToTimespec(unixNano)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

// MaxEntropy is how many bytes Reseed takes at once: more than the kernel's generator has state for helps nobody.
const MaxEntropy = 64

// Reseed mixes entropy into the kernel's random number generator, credits it in full (it is the host's randomness) and makes the
// generator use it at once: what is read from /dev/urandom afterwards is not what another clone of the same memory reads. Without entropy
// the generator takes what the processor has of it.
func Reseed(entropy []byte) error {
	if len(entropy) > MaxEntropy {
		return fmt.Errorf("reseed: %d bytes of entropy, at most %d are taken", len(entropy), MaxEntropy)
	}
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("reseed: %w", err)
	}
	defer f.Close()
	if len(entropy) > 0 {
		if err := addEntropy(f, entropy); err != nil {
			return fmt.Errorf("reseed: add entropy: %w", err)
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDRESEEDCRNG, 0); errno != 0 {
		return fmt.Errorf("reseed: %w", errno)
	}
	return nil
}

// addEntropy mixes it into the generator's pool, which is open.
func addEntropy(pool *os.File, entropy []byte) error {
	// struct rand_pool_info: bits to credit, bytes in the buffer, the buffer.
	var info [8 + MaxEntropy]byte
	binary.NativeEndian.PutUint32(info[0:], uint32(len(entropy)*8))
	binary.NativeEndian.PutUint32(info[4:], uint32(len(entropy)))
	copy(info[8:], entropy)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, pool.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info))); errno != 0 {
		return errno
	}
	return nil
}
