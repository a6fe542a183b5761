package main

import (
	"fmt"
	"net"
	"time"

	"code.cloudfoundry.org/garden"
)

// networked measures what a container's network costs: beside one without, one with rules out and a port in, asked for
// with the container and later.
func (b *bench) networked(cold, warm, alone *node, rounds int) error {
	ruled := func() garden.ContainerSpec {
		spec := b.spec()
		spec.NetOut = []garden.NetOutRule{rule(1)}
		spec.NetIn = []garden.NetIn{{ContainerPort: 80}}
		return spec
	}
	for range rounds {
		for _, one := range []struct {
			name string
			on   *node
			spec garden.ContainerSpec
		}{
			{"create without networks, pool 0", alone, b.spec()},
			{"create with a network, pool 0", cold, b.spec()},
			{"create with a network, rule and port, pool 0", cold, ruled()},
			{"create with a network, rule and port, pool warm", warm, ruled()},
		} {
			begin := time.Now()
			container, err := one.on.Create(one.spec)
			if err != nil {
				return fmt.Errorf("%s: %w", one.name, err)
			}
			b.report.add(one.name, time.Since(begin))
			if one.on != alone {
				if err := b.opened(container); err != nil {
					return err
				}
			}
			begin = time.Now()
			if err := one.on.Destroy(container.Handle()); err != nil {
				return err
			}
			if one.on != warm {
				b.report.add("destroy after: "+one.name, time.Since(begin))
			}
			// The floor of the next is an idle machine, and a pool that is full.
			time.Sleep(200 * time.Millisecond)
		}
	}
	return nil
}

// opened measures what is asked of a container's network later.
func (b *bench) opened(container garden.Container) error {
	many := make([]garden.NetOutRule, 0, 100)
	for i := range 100 {
		many = append(many, rule(byte(2+i)))
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"net_in", func() error { _, _, err := container.NetIn(0, 0); return err }},
		{"net_out", func() error { return container.NetOut(rule(200)) }},
		{"net_out/bulk of 100", func() error { return container.BulkNetOut(many) }},
	} {
		begin := time.Now()
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		b.report.add(step.name, time.Since(begin))
	}
	return nil
}

// rule opens some ports of one address.
func rule(last byte) garden.NetOutRule {
	return garden.NetOutRule{
		Protocol: garden.ProtocolTCP,
		Networks: []garden.IPRange{garden.IPRangeFromIP(net.IPv4(203, 0, 113, last))},
		Ports:    []garden.PortRange{{Start: 8000, End: 8999}},
	}
}
