package network

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// gateTable is what the packet filter of a namespace has of a card.
func (c Card) gateTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyNetdev, Name: c.tap()}
}

// makeGate makes the table, or nothing, in place of one that a killed shim may have left.
func makeGate(card Card, tapIndex int) error {
	plan := card.Gate.plan(card, tapIndex)
	err := addGate(card, plan)
	if errors.Is(err, unix.EEXIST) {
		if err = removeGate(card); err == nil {
			err = addGate(card, plan)
		}
	}
	if err != nil {
		return missingGate(err)
	}
	return nil
}

func addGate(card Card, plan gatePlan) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("reach the packet filter: %w", err)
	}
	table := conn.CreateTable(card.gateTable())
	for _, planned := range plan.sets {
		set, err := planned.in(table)
		if err != nil {
			return err
		}
		if err := conn.AddSet(set, elements(planned.members...)); err != nil {
			return fmt.Errorf("set %s: %w", planned.name, err)
		}
	}
	chains := map[string]*nftables.Chain{}
	for _, planned := range plan.chains { // all of them before the first rule that goes to one
		chain := &nftables.Chain{Table: table, Name: planned.name}
		if planned.at != "" {
			policy := nftables.ChainPolicyDrop
			chain.Type, chain.Hooknum, chain.Device = nftables.ChainTypeFilter, nftables.ChainHookIngress, planned.at
			chain.Priority, chain.Policy = nftables.ChainPriorityFilter, &policy
		}
		chains[planned.name] = conn.AddChain(chain)
	}
	for _, planned := range plan.chains {
		for _, exprs := range planned.rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chains[planned.name], Exprs: exprs})
		}
	}
	return conn.Flush()
}

// in is the set as the library has it.
func (s gateSet) in(table *nftables.Table) (*nftables.Set, error) {
	kind := s.keys[0]
	if len(s.keys) > 1 {
		var err error
		if kind, err = nftables.ConcatSetType(s.keys...); err != nil {
			return nil, fmt.Errorf("set %s: %w", s.name, err)
		}
	}
	return &nftables.Set{
		Table: table, Name: s.name, KeyType: kind, Concatenation: len(s.keys) > 1, Size: uint32(max(s.size, len(s.members))),
		Dynamic: s.timeout != 0, HasTimeout: s.timeout != 0, Timeout: s.timeout,
	}, nil
}

// removeGate removes the table. What is not there is no error.
func removeGate(card Card) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("reach the packet filter: %w", err)
	}
	conn.DelTable(card.gateTable())
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the gate: %w", err)
	}
	return nil
}

// Admit lets the guest reach these addresses by the cards that have a gate. One that is admitted already is no error.
// errdefs.ErrResourceExhausted: there are too many.
func (n *Namespace) Admit(cards []Card, addresses []netip.Addr) error {
	return n.changeAdmitted(cards, addresses, (*nftables.Conn).SetAddElements)
}

// Expel takes admitted addresses back. Connections to them go on.
func (n *Namespace) Expel(cards []Card, addresses []netip.Addr) error {
	return n.changeAdmitted(cards, addresses, (*nftables.Conn).SetDeleteElements)
}

func (n *Namespace) changeAdmitted(cards []Card, addresses []netip.Addr,
	change func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	err := n.do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		for _, card := range cards {
			for _, address := range addresses {
				set := &nftables.Set{Table: card.gateTable(), Name: "admitted" + gate6.suffix, KeyType: gate6.address}
				if address.Is4() {
					set.Name, set.KeyType = "admitted"+gate4.suffix, gate4.address
				}
				if err := change(conn, set, elements(address.AsSlice())); err != nil {
					return err
				}
			}
		}
		return conn.Flush()
	})
	if errors.Is(err, unix.ENFILE) {
		err = fmt.Errorf("there are %d already: %w", MaxAdmitted, errdefs.ErrResourceExhausted)
	}
	if err != nil {
		return fmt.Errorf("change which addresses the guest may reach: %w", err)
	}
	return nil
}

// missingGate says what a kernel lacks that does not know what a gate is made of.
func missingGate(err error) error {
	for _, unknown := range []error{unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT} {
		if errors.Is(err, unknown) {
			return fmt.Errorf("the kernel has not all that an egress policy takes (NF_TABLES_NETDEV, NFT_DUP_NETDEV, NFT_LOG, NFT_LIMIT, "+
				"NETFILTER_NETLINK_LOG): load the modules nft_dup_netdev, nft_log, nft_limit and nfnetlink_log, or use a kernel with them: %w: %w",
				err, errdefs.ErrNotImplemented)
		}
	}
	return fmt.Errorf("make the gate: %w", err)
}
