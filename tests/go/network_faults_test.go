package garden_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"

	"github.com/gardend/gardend/tests/go/harness"
	"github.com/gardend/gardend/tests/go/inside"
	"github.com/gardend/gardend/tests/go/peer"
)

// How soon what others have changed is as it was: where the kernel tells of it, and where it is found by looking.
const (
	putBack     = 10 * time.Second
	foundByLook = 15 * time.Second
)

// create makes a container of the node's that is gone when the test ends, whichever gardend runs then.
func (n *node) create(asked garden.ContainerSpec) garden.Container {
	n.t.Helper()
	container, err := n.client().Create(asked)
	must(n.t, err)
	n.t.Cleanup(func() { destroyOn(n.t, n.client(), container.Handle()) })
	return container
}

// again is the same container by a client of the gardend that runs now.
func (n *node) again(container garden.Container) garden.Container {
	n.t.Helper()
	return on(n.t, n.client(), container)
}

// starts a probe's verb in a container that nobody attends to.
func starts(t *testing.T, container garden.Container, words ...string) {
	t.Helper()
	start(t, container, garden.ProcessSpec{Path: probe, Args: append([]string{inside.Word}, words...)}, garden.ProcessIO{})
}

// goesOn fails unless somebody who sends numbered lines is heard of anew, by the same address as before where one is
// given.
func (n *node) goesOn(text, from string) {
	n.t.Helper()
	before := len(n.outside.AllHeard(text))
	eventually(n.t, patience, func() error {
		if now := len(n.outside.AllHeard(text)); now < before+3 {
			return fmt.Errorf("%q was heard %d times, and then %d", text, before, now)
		}
		return nil
	})
	if now, _ := n.outside.Heard(text); from != "" && now != from {
		n.t.Errorf("%q comes from %s where it came from %s", text, now, from)
	}
}

// reachesNear asks again until a container reaches somebody outside.
func (n *node) reachesNear(container garden.Container, limit time.Duration) {
	n.t.Helper()
	eventually(n.t, limit, func() error {
		for end, outcome := range reach(n.t, container, refusal, "near", tcp(harness.Near, harness.Port), udp(harness.Near6, harness.Port)) {
			if !strings.HasPrefix(outcome, peer.Answered) {
				return fmt.Errorf("%s: %s", end, outcome)
			}
		}
		return nil
	})
}

// shut fails if any end answers a container.
func (n *node) shut(container garden.Container, ends ...string) {
	n.t.Helper()
	for end, outcome := range reach(n.t, container, refusal, "shut", ends...) {
		if strings.HasPrefix(outcome, peer.Answered) {
			n.t.Errorf("%s: %s", end, outcome)
		}
	}
}

func networkArguments() []string {
	return []string{"--pool-size", "0", "--network-pool-v6", poolV6, "--deny-network", harness.DeniedNetworks}
}

func TestNetworkOverRestarts(t *testing.T) {
	needsNetwork(t)
	long(t, "connections, addresses, ports and rules outlive gardend, and hold while it is away", func(t *testing.T) {
		node := newNode(t, networkArguments()...)
		asked := networked(t, garden.NetOutRule{Networks: only(harness.Second)})
		asked.NetIn = []garden.NetIn{{HostPort: 7301, ContainerPort: 8080}}
		container := node.create(asked)
		must(t, container.NetOut(garden.NetOutRule{Protocol: garden.ProtocolTCP, Networks: only(harness.Denied)}))
		before := infoOf(t, container)
		starts(t, container, "serve", tcp("", 8080), udp("", 8080))
		out, denied := unique("out")+".", unique("denied")+"."
		starts(t, container, "talk", hostPort(harness.Near, harness.Port), out)
		starts(t, container, "drum", hostPort(harness.Third, harness.Port), denied)
		from := hears(t, node.outside, out)
		eventually(t, patience, func() error {
			if outcome := node.outside.Reach(tcp(harness.Node, 7301), "in", time.Second); !strings.HasPrefix(outcome, peer.Answered) {
				return fmt.Errorf("the port in does not answer: %s", outcome)
			}
			return nil
		})
		in, err := node.outside.Dial(hostPort(harness.Node, 7301))
		must(t, err)
		defer in.Close()
		for range 2 {
			node.restart(func() {
				node.goesOn(out, from)
				converse(t, in)
				answersFromOutside(t, node.outside, tcp(harness.Node, 7301))
			})
			node.goesOn(out, from)
			converse(t, in)
			answersFromOutside(t, node.outside, tcp(harness.Node, 7301))
			answersFromOutside(t, node.outside, udp(harness.Node, 7301))
			container = node.again(container)
			after := infoOf(t, container)
			equal(t, "addresses", after.ContainerIP+" "+after.ContainerIPv6+" "+after.HostIP+" "+after.ExternalIP,
				before.ContainerIP+" "+before.ContainerIPv6+" "+before.HostIP+" "+before.ExternalIP)
			equal(t, "ports", fmt.Sprint(after.MappedPorts), fmt.Sprint(before.MappedPorts))
			reaches(t, container, tcp(harness.Denied, harness.Port), udp(harness.Second, harness.Port), tcp(harness.Near6, harness.Port))
			node.shut(container, udp(harness.Denied, harness.Port), tcp(harness.Third, harness.Port), tcp(harness.Denied6, harness.Port))
			other := node.create(networked(t))
			equal(t, "another has its address", addressOf(t, other) == after.ContainerIP, false)
			_, _, err := other.NetIn(7301, 80)
			refused(t, err, "7301", "already")
			must(t, node.client().Destroy(other.Handle()))
		}
		equal(t, "times that a denied address was reached", len(node.outside.AllHeard(denied)), 0)
		must(t, node.client().Destroy(container.Handle()))
		must(t, node.server.Census(0, patience))
	})
	long(t, "what was made before and is destroyed after a restart leaves nothing", func(t *testing.T) {
		node := newNode(t, networkArguments()...)
		asked := networked(t, garden.NetOutRule{Log: true}, garden.NetOutRule{Protocol: garden.ProtocolUDP, Ports: ports(1, 5)})
		asked.NetIn = []garden.NetIn{{}, {HostPort: 7302}}
		asked.Limits.Bandwidth = garden.BandwidthLimits{RateInBytesPerSecond: mib, BurstRateInBytesPerSecond: mib}
		container := node.create(asked)
		first := node.server
		node.restart(func() {})
		must(t, node.client().Destroy(container.Handle()))
		must(t, node.server.CensusSince(first, 0, patience))
		container = node.create(asked)
		equal(t, "ports", len(infoOf(t, container).MappedPorts), 2)
	})
}

// converse sends a line over a connection to a peer, and waits for it to come back.
func converse(t *testing.T, conn net.Conn) {
	t.Helper()
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	line := unique("line") + "."
	_, err := fmt.Fprintln(conn, line)
	must(t, err)
	var seen strings.Builder
	buffer := make([]byte, 512)
	for !strings.Contains(seen.String(), line+"\n") {
		length, err := conn.Read(buffer)
		if err != nil {
			t.Fatalf("the connection ended: %v", err)
		}
		seen.Write(buffer[:length])
	}
}

func TestNetworkChangedByOthers(t *testing.T) {
	needsNetwork(t)
	ownTables := func(n *node, verb string) {
		for line := range strings.Lines(n.run("nft", "list", "tables")) {
			if words := strings.Fields(line); len(words) == 3 && strings.HasPrefix(words[2], "gardend_") {
				n.run("nft", verb, "table", words[1], words[2])
			}
		}
	}
	for _, row := range []struct {
		name    string
		within  time.Duration
		rounds  int
		disturb func(*node, garden.Container)
	}{
		{"a flush of the whole packet filter", putBack, 3, func(n *node, _ garden.Container) { n.run("nft", "flush", "ruleset") }},
		{"a removal of gardend's table", putBack, 3, func(n *node, _ garden.Container) { ownTables(n, "delete") }},
		{"a flush of the rules in gardend's table", foundByLook, 1, func(n *node, _ garden.Container) { ownTables(n, "flush") }},
		{"a removal of its link", foundByLook, 1, func(n *node, container garden.Container) {
			n.run("ip", "link", "del", linkOf(n.t, n.namespace.Run, container))
		}},
		{"a removal of its route", foundByLook, 1, func(n *node, container garden.Container) {
			n.run("ip", "route", "del", addressOf(n.t, container))
		}},
		{"its link set down", foundByLook, 1, func(n *node, container garden.Container) {
			n.run("ip", "link", "set", linkOf(n.t, n.namespace.Run, container), "down")
		}},
	} {
		long(t, row.name+" opens nothing, and is put back soon", func(t *testing.T) {
			node := newNode(t, networkArguments()...)
			asked := networked(t)
			asked.NetIn = []garden.NetIn{{HostPort: 7303, ContainerPort: 8080}}
			container, neighbour := node.create(asked), node.create(networked(t))
			serve(t, container, tcp("", 8080))
			heard := serve(t, neighbour, udp("0.0.0.0", 8080))
			denied := unique("denied") + "."
			starts(t, container, "drum", hostPort(harness.Denied, harness.Port), denied)
			starts(t, container, "drum", hostPort(harness.Denied6, harness.Port), denied)
			starts(t, container, "drum", hostPort(addressOf(t, neighbour), 8080), denied)
			node.reachesNear(container, patience)
			for range row.rounds {
				row.disturb(node, container)
				node.reachesNear(container, row.within)
				answersFromOutside(t, node.outside, tcp(harness.Node, 7303))
			}
			equal(t, "times that a denied address was reached", len(node.outside.AllHeard(denied)), 0)
			equal(t, "what the neighbour heard", heard.String(), "serving\n")
			node.shut(container, tcp(harness.Denied, harness.Port), tcp(addressOf(t, neighbour), 8080))
		})
	}
	long(t, "while gardend is away, a flush of the packet filter cuts containers off, and the next gardend puts them back", func(t *testing.T) {
		node := newNode(t, networkArguments()...)
		container, neighbour := node.create(networked(t)), node.create(networked(t))
		heard := serve(t, neighbour, udp("0.0.0.0", 8080))
		near, closed := unique("near")+".", unique("closed")+"."
		starts(t, container, "drum", hostPort(harness.Near, harness.Port), near)
		starts(t, container, "drum", hostPort(harness.Near6, harness.Port), near)
		starts(t, container, "drum", hostPort(harness.Denied, harness.Port), closed)
		starts(t, container, "drum", hostPort(harness.Denied6, harness.Port), closed)
		starts(t, container, "drum", hostPort(addressOf(t, neighbour), 8080), closed)
		node.goesOn(near, "")
		node.restart(func() {
			node.run("nft", "flush", "ruleset")
			// What was under way then.
			time.Sleep(200 * time.Millisecond)
			before := len(node.outside.AllHeard(near))
			time.Sleep(time.Second)
			equal(t, "datagrams that still came", len(node.outside.AllHeard(near))-before, 0)
		})
		node.goesOn(near, "")
		node.reachesNear(node.again(container), putBack)
		equal(t, "times that a denied address was reached", len(node.outside.AllHeard(closed)), 0)
		equal(t, "what the neighbour heard", heard.String(), "serving\n")
	})
	long(t, "the machine's own tables, rules, routes and links are as before, whatever gardend does", func(t *testing.T) {
		node := newNode(t, networkArguments()...)
		for _, arguments := range []string{
			"add table inet theirs", "add set inet theirs some { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 }; }",
			"add chain inet theirs forward { type filter hook forward priority 10; policy accept; }",
			"add rule inet theirs forward ip daddr 192.0.2.77 drop comment \"theirs\"",
			"add table ip nat", "add chain ip nat POSTROUTING { type nat hook postrouting priority 100; }",
			"add rule ip nat POSTROUTING ip saddr 192.0.2.0/24 masquerade", "add table ip6 gardening",
		} {
			node.run("nft", arguments)
		}
		node.run("ip", "link", "add", "gdthers", "type", "veth", "peer", "name", "theirs")
		node.run("ip", "addr", "add", "192.0.2.200/32", "dev", "gdthers")
		node.run("ip", "rule", "add", "pref", "7000", "to", "192.0.2.77", "lookup", "77")
		node.run("ip", "route", "add", "192.0.2.77/32", "via", harness.Router, "table", "77")
		theirs := func() string {
			return node.run("nft", "list", "table", "inet", "theirs") + node.run("nft", "list", "table", "ip", "nat") +
				node.run("nft", "list", "table", "ip6", "gardening") + node.run("ip", "addr", "show", "dev", "gdthers") +
				node.run("ip", "rule", "show", "pref", "7000") + node.run("ip", "route", "show", "table", "77") +
				node.run("ip", "addr", "show", "dev", "up0") + node.run("ip", "route", "show", "default")
		}
		before := theirs()
		container := node.create(networked(t))
		_, _, err := container.NetIn(0, 0)
		must(t, err)
		must(t, container.NetOut(garden.NetOutRule{Log: true}))
		node.reachesNear(container, patience)
		node.restart(func() {})
		// The sweeper's look passes, too.
		time.Sleep(putBack + time.Second)
		must(t, node.client().Destroy(container.Handle()))
		must(t, node.server.Census(0, patience))
		equal(t, "what is theirs", theirs(), before)
	})
	long(t, "two gardends in one network leave each other's containers alone", func(t *testing.T) {
		one, other := own(t, "--pool-size", "0"), own(t, "--pool-size", "0")
		first, second := createOn(t, one, networked(t)), createOn(t, other, networked(t))
		// Each has swept meanwhile.
		time.Sleep(putBack + time.Second)
		for _, container := range []garden.Container{first, second} {
			reaches(t, container, everyWay(harness.Near)...)
		}
		serve(t, first, tcp("0.0.0.0", 8080))
		closed(t, second, tcp(addressOf(t, first), 8080), icmp(addressOf(t, first)))
	})
}
