package garden_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"code.cloudfoundry.org/garden"

	"github.com/gardend/gardend/tests/go/harness"
	"github.com/gardend/gardend/tests/go/peer"
)

// listening is a container that answers at a port of its own, by TCP and UDP and both families, and has ports in.
func listening(t *testing.T, asked garden.ContainerSpec, in ...garden.NetIn) garden.Container {
	t.Helper()
	asked.NetIn = in
	container := create(t, asked)
	serve(t, container, tcp("", 8080), udp("", 8080))
	return container
}

// mapped are a container's ports in, in order.
func mapped(t *testing.T, container garden.Container) string {
	t.Helper()
	var found []string
	for _, port := range infoOf(t, container).MappedPorts {
		found = append(found, fmt.Sprintf("%d:%d", port.HostPort, port.ContainerPort))
	}
	slices.Sort(found)
	return strings.Join(found, " ")
}

// answersOnNode fails unless an end answers a program on the node itself, and returns which address it saw.
func answersOnNode(t *testing.T, end string) (saw string) {
	t.Helper()
	outcome := peer.Reach(end, unique("node")+".", patience)
	saw, answered := strings.CutPrefix(outcome, peer.Answered)
	if !answered {
		t.Errorf("%s does not answer the node: %s", end, outcome)
	}
	return saw
}

// silentOutside fails if any end answers somebody outside.
func silentOutside(t *testing.T, ends ...string) {
	t.Helper()
	for i, err := range parallel(len(ends), func(i int) error {
		if outcome := outside.Reach(ends[i], "nobody", refusal); strings.HasPrefix(outcome, peer.Answered) {
			return fmt.Errorf("%s", outcome)
		}
		return nil
	}) {
		if err != nil {
			t.Errorf("%s: %v", ends[i], err)
		}
	}
}

func TestPortsIn(t *testing.T) {
	needsNetwork(t)
	behaviour(t, "a port in leads to its container from outside, by TCP, UDP and both families, and shows who comes", func(t *testing.T) {
		container := listening(t, networked(t), garden.NetIn{HostPort: 7101, ContainerPort: 8080})
		equal(t, "ports", mapped(t, container), "7101:8080")
		for node, router := range map[string]string{harness.Node: harness.Router, harness.Node6: harness.Router6} {
			for _, end := range []string{tcp(node, 7101), udp(node, 7101)} {
				host, _, err := net.SplitHostPort(answersFromOutside(t, outside, end))
				if err == nil {
					equal(t, "seen at "+end, host, router)
				}
			}
		}
	})
	behaviour(t, "it leads there from the node itself, by each of its addresses but its loopback's", func(t *testing.T) {
		listening(t, networked(t), garden.NetIn{HostPort: 7102, ContainerPort: 8080})
		for _, host := range []string{harness.Node, harness.Node6} {
			answersOnNode(t, tcp(host, 7102))
			answersOnNode(t, udp(host, 7102))
		}
		for _, host := range []string{"127.0.0.1", "::1"} {
			if outcome := peer.Reach(tcp(host, 7102), "nobody", refusal); strings.HasPrefix(outcome, peer.Answered) {
				t.Errorf("%s: %s", host, outcome)
			}
		}
	})
	long(t, "it leads there from other containers, and from its own", func(t *testing.T) {
		container := listening(t, networked(t), garden.NetIn{HostPort: 7103, ContainerPort: 8080})
		for _, from := range []garden.Container{create(t, networked(t)), container} {
			reaches(t, from, tcp(harness.Node, 7103), udp(harness.Node, 7103), tcp(harness.Node6, 7103), udp(harness.Node6, 7103))
		}
	})
	long(t, "a privileged container's port leads to it, too", func(t *testing.T) {
		container := listening(t, withProbe(t, privileged(t)), garden.NetIn{ContainerPort: 8080})
		port := int(infoOf(t, container).MappedPorts[0].HostPort)
		answersFromOutside(t, outside, tcp(harness.Node, port))
		answersOnNode(t, udp(harness.Node, port))
	})
	behaviour(t, "without a port of the node one is taken from the pool, without one of the container it is the same", func(t *testing.T) {
		container := create(t, networked(t))
		seen := map[uint32]bool{}
		for range 3 {
			host, inside, err := container.NetIn(0, 0)
			must(t, err)
			within(t, "port", uint64(host), 61001, 65534)
			equal(t, "the container's", inside, host)
			equal(t, "given before", seen[host], false)
			seen[host] = true
			serve(t, container, tcp("0.0.0.0", int(inside)))
			answersFromOutside(t, outside, tcp(harness.Node, int(host)))
		}
	})
	long(t, "of two numbers that are given each is kept", func(t *testing.T) {
		container := create(t, networked(t))
		host, inside, err := container.NetIn(7104, 8081)
		must(t, err)
		equal(t, "ports", fmt.Sprint(host, inside), "7104 8081")
		host, inside, err = container.NetIn(7105, 0)
		must(t, err)
		equal(t, "ports", fmt.Sprint(host, inside), "7105 7105")
		host, inside, err = container.NetIn(0, 8082)
		must(t, err)
		equal(t, "the container's", inside, 8082)
		equal(t, "ports", mapped(t, container), fmt.Sprintf("%d:8082 7104:8081 7105:7105", host))
	})
	long(t, "ports of the spec and ports that come later are ports alike", func(t *testing.T) {
		container := listening(t, networked(t), garden.NetIn{HostPort: 7106, ContainerPort: 8080}, garden.NetIn{ContainerPort: 8080})
		_, _, err := container.NetIn(7107, 8080)
		must(t, err)
		ports := infoOf(t, container).MappedPorts
		equal(t, "ports", len(ports), 3)
		for _, port := range ports {
			answersFromOutside(t, outside, tcp(harness.Node, int(port.HostPort)))
			answersFromOutside(t, outside, udp(harness.Node, int(port.HostPort)))
		}
	})
	behaviour(t, "a port that a container has is refused to others, and to itself for another end", func(t *testing.T) {
		container := listening(t, networked(t), garden.NetIn{HostPort: 7108, ContainerPort: 8080})
		other := create(t, networked(t))
		_, _, err := other.NetIn(7108, 80)
		refused(t, err, "7108", "already")
		_, _, err = container.NetIn(7108, 81)
		refused(t, err, "7108", "already")
		asked := networked(t)
		asked.NetIn = []garden.NetIn{{HostPort: 7109}, {HostPort: 7108}}
		_, err = gard.Create(asked)
		refused(t, err, "7108", "already")
		equal(t, "listed", listed(t, asked.Handle), false)
		equal(t, "the other's ports", mapped(t, other), "")
		answersFromOutside(t, outside, tcp(harness.Node, 7108))
		// The first of the two was given back.
		_, _, err = other.NetIn(7109, 80)
		must(t, err)
	})
	long(t, "a port that leads there already is answered as it is", func(t *testing.T) {
		container := create(t, networked(t))
		for range 2 {
			host, inside, err := container.NetIn(7112, 80)
			must(t, err)
			equal(t, "ports", fmt.Sprint(host, inside), "7112 80")
		}
		equal(t, "ports", mapped(t, container), "7112:80")
	})
	behaviour(t, "a port that a program on the node listens on is refused", func(t *testing.T) {
		listener, err := net.Listen("tcp", ":0")
		must(t, err)
		defer listener.Close()
		datagrams, err := net.ListenPacket("udp", harness.Node+":0")
		must(t, err)
		defer datagrams.Close()
		container := create(t, networked(t))
		for _, address := range []net.Addr{listener.Addr(), datagrams.LocalAddr()} {
			_, text, err := net.SplitHostPort(address.String())
			must(t, err)
			port, err := net.LookupPort(address.Network(), text)
			must(t, err)
			_, _, err = container.NetIn(uint32(port), 80)
			refused(t, err, text)
		}
		equal(t, "ports", mapped(t, container), "")
	})
	long(t, "gardend's own port is refused", func(t *testing.T) {
		_, text, err := net.SplitHostPort(server.Address)
		must(t, err)
		port, err := net.LookupPort("tcp", text)
		must(t, err)
		_, _, err = create(t, networked(t)).NetIn(uint32(port), 80)
		refused(t, err, text)
		must(t, gard.Ping())
	})
	long(t, "a number that is no port is refused", func(t *testing.T) {
		container := create(t, networked(t))
		_, _, err := container.NetIn(70000, 80)
		refused(t, err, "70000")
		_, _, err = container.NetIn(0, 70000)
		refused(t, err, "70000")
		equal(t, "ports", mapped(t, container), "")
	})
	behaviour(t, "a destroy closes the port at once and gives it back", func(t *testing.T) {
		container := listening(t, networked(t), garden.NetIn{HostPort: 7110, ContainerPort: 8080})
		answersFromOutside(t, outside, tcp(harness.Node, 7110))
		must(t, gard.Destroy(container.Handle()))
		silentOutside(t, tcp(harness.Node, 7110), udp(harness.Node, 7110))
		listening(t, networked(t), garden.NetIn{HostPort: 7110, ContainerPort: 8080})
		answersFromOutside(t, outside, tcp(harness.Node, 7110))
		answersFromOutside(t, outside, udp(harness.Node, 7110))
	})
	long(t, "who was talking to a destroyed container does not go on with who has its address next", func(t *testing.T) {
		address := "10.254.60.9/24"
		container := listening(t, in(networked(t), address), garden.NetIn{HostPort: 7113, ContainerPort: 8080})
		ends := []string{udp(harness.Node, 7113) + "?from=4113"}
		for _, end := range ends {
			answersFromOutside(t, outside, end)
		}
		must(t, gard.Destroy(container.Handle()))
		listening(t, in(networked(t), address))
		silentOutside(t, ends...)
	})
	behaviour(t, "only what has a port in is reached from outside, whoever knows the way to its address", func(t *testing.T) {
		container := listening(t, networked(t), garden.NetIn{HostPort: 7111, ContainerPort: 8081})
		info := infoOf(t, container)
		for address, node := range map[string]string{info.ContainerIP: harness.Node, info.ContainerIPv6: harness.Node6} {
			_, err := outside.Run("ip", "route", "add", address, "via", node)
			must(t, err)
			defer func() { _, _ = outside.Run("ip", "route", "del", address) }()
			silentOutside(t, tcp(address, 8080), udp(address, 8080), icmp(address))
		}
	})
	long(t, "a pool of ports that is used up refuses in these words, until a container goes", func(t *testing.T) {
		few := own(t, "--host-ports", "9701-9702", "--pool-size", "0")
		first, second := createOn(t, few, networked(t)), createOn(t, few, networked(t))
		for _, container := range []garden.Container{first, second} {
			host, _, err := container.NetIn(0, 80)
			must(t, err)
			within(t, "port", uint64(host), 9701, 9702)
		}
		_, _, err := second.NetIn(0, 81)
		refused(t, err, "9701", "9702")
		must(t, few.Destroy(first.Handle()))
		_, _, err = second.NetIn(0, 81)
		must(t, err)
	})
	long(t, "clients that ask for ports at the same time all get others", func(t *testing.T) {
		containers := []garden.Container{create(t, networked(t)), create(t, networked(t)), create(t, networked(t))}
		for _, err := range parallel(60, func(i int) error {
			_, _, err := containers[i%3].NetIn(0, uint32(1000+i))
			return err
		}) {
			must(t, err)
		}
		seen := map[uint32]bool{}
		for _, container := range containers {
			for _, port := range infoOf(t, container).MappedPorts {
				equal(t, fmt.Sprint(port.HostPort, " given before"), seen[port.HostPort], false)
				seen[port.HostPort] = true
			}
		}
		equal(t, "ports", len(seen), 60)
	})
}
