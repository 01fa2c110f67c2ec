package standalone

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Request is what is to be run, as its user says it. It can be written as JSON.
type Request struct {
	Name   string `json:"name"`   // see CheckName
	Source string `json:"source"` // see ResolveSource

	Args       []string `json:"args"`       // empty: what the image says
	Entrypoint *string  `json:"entrypoint"` // replaces the image's; empty: none
	Env        []string `json:"env"`        // NAME=value
	Workdir    string   `json:"workdir"`    // in the container; empty: what the image says, or else "/"
	User       string   `json:"user"`       // USER[:GROUP], names or numbers; empty: what the image says, or else root
	Hostname   string   `json:"hostname"`   // empty: the name
	ReadOnly   bool     `json:"read_only"`  // the root file system
	Terminal   bool     `json:"terminal"`
	Size       Size     `json:"size"`  // of the terminal
	Input      bool     `json:"input"` // standard input is joined to the command's

	Network bool `json:"network"` // it has one, see runtime.MakeNetwork
	// AllowHosts and AllowCIDRs are all that the network reaches, if there are any; see package egress.
	AllowHosts []string `json:"allow_hosts"`
	AllowCIDRs []string `json:"allow_cidrs"`
	Platform   string   `json:"platform"` // OS/ARCH of an image; empty: the guest's

	Volumes []Volume      `json:"volumes"`
	Ports   []Port        `json:"ports"`
	CPUs    float64       `json:"cpus"`    // processors' worth of time; 0: what the sandbox has
	Memory  int64         `json:"memory"`  // bytes; 0: what the sandbox has
	Timeout time.Duration `json:"timeout"` // nanoseconds after which the command is killed; 0: never
	Remove  bool          `json:"remove"`  // nothing is kept once it has ended
}

// restricted tells whether not everything is to be reached by the network.
func (r Request) restricted() bool { return len(r.AllowHosts)+len(r.AllowCIDRs) > 0 }

// Size is that of a terminal in characters; 0 by 0 if it is not known.
type Size struct {
	Columns uint16 `json:"columns"`
	Rows    uint16 `json:"rows"`
}

// Volume is a file or directory of the host's that the container has.
type Volume struct {
	Source      string `json:"source"`      // absolute, on the host
	Destination string `json:"destination"` // absolute, in the container
	ReadOnly    bool   `json:"read_only"`
}

// Port is one of the host's that leads to one of the guest's loopback, over TCP.
type Port struct {
	Address string `json:"address"` // of the host, an IP address
	Host    uint16 `json:"host"`    // 0: any free one
	Guest   uint16 `json:"guest"`
}

// namePattern is as others name containers; the length leaves room for a host name (64 bytes).
var namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)

// CheckName is an ErrInvalidArgument if a run cannot be called so.
func CheckName(name string) error {
	if namePattern.MatchString(name) {
		return nil
	}
	return fmt.Errorf("name %q: it must have 1 to 63 letters, digits, '_', '.' or '-', and begin with a letter or digit: %w", name,
		errdefs.ErrInvalidArgument)
}

// ParseVolume understands HOST:GUEST[:ro|rw]. A relative HOST is one of the working directory.
func ParseVolume(text string) (Volume, error) {
	wrong := func(why string) (Volume, error) {
		return Volume{}, fmt.Errorf("volume %q: %s: write HOST:GUEST or HOST:GUEST:ro: %w", text, why, errdefs.ErrInvalidArgument)
	}
	parts := strings.Split(text, ":")
	if len(parts) < 2 || len(parts) > 3 {
		return wrong("it has not two or three parts")
	}
	volume := Volume{Destination: parts[1]}
	if parts[0] == "" {
		return wrong("it names nothing of the host")
	}
	if !filepath.IsAbs(volume.Destination) {
		return wrong("the path in the guest is not absolute")
	}
	if len(parts) == 3 {
		switch parts[2] {
		case "ro":
			volume.ReadOnly = true
		case "rw":
		default:
			return wrong(fmt.Sprintf("%q is neither ro nor rw", parts[2]))
		}
	}
	source, err := filepath.Abs(parts[0])
	if err != nil {
		return wrong(err.Error())
	}
	volume.Source = source
	return volume, nil
}

// ParsePort understands [ADDRESS:]HOST:GUEST. Without an address it is the host's localhost; an IPv6 address is in brackets.
func ParsePort(text string) (Port, error) {
	wrong := func(why string) (Port, error) {
		return Port{}, fmt.Errorf("port %q: %s: write HOST:GUEST or ADDRESS:HOST:GUEST: %w", text, why, errdefs.ErrInvalidArgument)
	}
	front, guest, ok := cutLast(text)
	if !ok {
		return wrong("it has no port of the guest")
	}
	port := Port{Address: "127.0.0.1"}
	host := front
	if address, last, ok := cutLast(front); ok {
		port.Address, host = strings.TrimSuffix(strings.TrimPrefix(address, "["), "]"), last
	}
	if net.ParseIP(port.Address) == nil {
		return wrong(fmt.Sprintf("%q is not an IP address", port.Address))
	}
	var err error
	if port.Host, err = parsePortNumber(host); err != nil {
		return wrong(err.Error())
	}
	if port.Guest, err = parsePortNumber(guest); err != nil {
		return wrong(err.Error())
	}
	if port.Guest == 0 {
		return wrong("0 is no port of the guest")
	}
	return port, nil
}

func cutLast(text string) (before, after string, found bool) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return text, "", false
	}
	return text[:i], text[i+1:], true
}

func parsePortNumber(text string) (uint16, error) {
	number, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number from 0 to 65535", text)
	}
	return uint16(number), nil
}
