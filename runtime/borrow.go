package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/network"
)

// unplugTimeout is how long the guest may take to let go of a network card.
const unplugTimeout = 30 * time.Second

// sourceName is the name in the share of what AttachSource shows. No container has one that begins with a dot.
const sourceName = ".source"

// AttachSource shows the guest a file or directory of the host's, for reading, until the sandbox ends, and returns its path there. It can
// be called once.
func (s *Sandbox) AttachSource(source string) (guestPath string, err error) {
	info, err := os.Stat(source)
	if err != nil {
		return "", fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	place := filepath.Join(s.dir.share(), sourceName)
	if info.IsDir() {
		err = os.Mkdir(place, 0o711)
	} else {
		err = os.WriteFile(place, nil, 0o600)
	}
	if err != nil {
		return "", s.dir.failed("show the guest a file in", err)
	}
	tree, err := openBind(source, bindOptions{readOnly: true})
	if err != nil {
		return "", err
	}
	defer tree.Close()
	if err := s.machine.AttachMount(shareDevice, sourceName, tree); err != nil {
		return "", err
	}
	return path.Join(guestShare, sourceName), nil
}

// Borrow gives the guest the network that MakeNetwork has made, without an egress policy, while do runs. Nothing of it is in the guest when
// Borrow returns, nor any container before.
func (s *Sandbox) Borrow(ctx context.Context, do func(context.Context) error) (err error) {
	namespace, err := network.Open(filepath.Join(s.dir.path, netnsFile))
	if err != nil {
		return err
	}
	plan, err := planNetwork(namespace, nil)
	if err != nil {
		return errors.Join(err, namespace.Close())
	}
	link := s.newConnection(namespace, false, plan.Subnet)
	// If the sandbox ends meanwhile; what a killed holder leaves of it goes with the namespace.
	s.undo.push("disconnect the network", func(context.Context) error { return link.close() })
	var plugged []hypervisor.NIC
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unplugTimeout)
		defer cancel()
		for _, nic := range plugged {
			err = errors.Join(err, s.machine.Unplug(ctx, nic.ID, func(ctx context.Context) error {
				_, err := s.call(ctx, callTimeout, protocol.Unplug{MAC: nic.MAC.String()})
				return err
			}))
		}
		err = errors.Join(err, link.close())
	}()
	for _, card := range plan.Cards {
		nic, err := link.attach(card)
		if err != nil {
			return err
		}
		err = s.machine.Plug(ctx, nic)
		closeTaps([]hypervisor.NIC{nic}) // the machine has a duplicate
		if err != nil {
			return fmt.Errorf("give the VM interface %s: %w", card.Interface, err)
		}
		plugged = append(plugged, nic)
	}
	if _, err := s.call(ctx, connectTimeout, plan.Message); err != nil {
		return fmt.Errorf("set the network up in the guest: %w", err)
	}
	return do(ctx)
}
