package garden_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"code.cloudfoundry.org/garden"

	"github.com/gardend/gardend/tests/go/harness"
	"github.com/gardend/gardend/tests/go/inside"
	"github.com/gardend/gardend/tests/go/peer"
)

// servesOnNode starts a listener on the node, at every address, by TCP and UDP, and returns what came to it.
func servesOnNode(t *testing.T, port int) *buffer {
	t.Helper()
	heard := newBuffer()
	ends := []string{tcp("", port)}
	for _, host := range []string{harness.Node, "127.0.0.1", harness.Node6, "::1"} {
		ends = append(ends, udp(host, port))
	}
	must(t, peer.Serve(func(text, from string) { fmt.Fprintf(heard, "%q from %s\n", text, from) }, ends...))
	return heard
}

// linkOf is the node's end of a container's link.
func linkOf(t *testing.T, run func(string, ...string) (string, error), container garden.Container) string {
	t.Helper()
	said, err := run("ip", "-j", "route", "get", addressOf(t, container))
	must(t, err)
	var routes []struct{ Dev string }
	must(t, json.Unmarshal([]byte(said), &routes))
	return routes[0].Dev
}

// addressOnLink is the link-local address of the node's end of a container's link.
func addressOnLink(t *testing.T, container garden.Container) string {
	t.Helper()
	said, err := server.Run("ip", "-j", "-6", "addr", "show", "dev", linkOf(t, server.Run, container), "scope", "link")
	must(t, err)
	var links []struct {
		AddrInfo []struct{ Local string } `json:"addr_info"`
	}
	must(t, json.Unmarshal([]byte(said), &links))
	for _, link := range links {
		for _, address := range link.AddrInfo {
			return address.Local
		}
	}
	return ""
}

// attempt runs a probe's verb in a container; whether it succeeded there does not matter.
func attempt(t *testing.T, container garden.Container, words ...string) {
	t.Helper()
	run(t, container, garden.ProcessSpec{Path: probe, Args: append([]string{inside.Word}, words...)})
}

func TestNeighbours(t *testing.T) {
	needsNetwork(t)
	// pair are two containers, of which the first answers at port 8080.
	pair := func(t *testing.T, one, two garden.ContainerSpec) (garden.Container, garden.Container, []string) {
		t.Helper()
		first, second := create(t, one), create(t, two)
		serve(t, first, tcp("", 8080), udp("", 8080))
		info := infoOf(t, first)
		return first, second, []string{
			tcp(info.ContainerIP, 8080), udp(info.ContainerIP, 8080), icmp(info.ContainerIP),
			tcp(info.ContainerIPv6, 8080), udp(info.ContainerIPv6, 8080), icmp(info.ContainerIPv6),
		}
	}
	behaviour(t, "containers of different subnets do not reach each other, whatever their kind", func(t *testing.T) {
		for _, kinds := range [][2]garden.ContainerSpec{
			{networked(t), networked(t)}, {networked(t), withProbe(t, privileged(t))}, {withProbe(t, privileged(t)), in(networked(t), "10.254.40.0/24")},
		} {
			first, second, ends := pair(t, kinds[0], kinds[1])
			reaches(t, first, ends...)
			closed(t, second, ends...)
		}
	})
	behaviour(t, "containers of one subnet do", func(t *testing.T) {
		first, second, ends := pair(t, in(networked(t), "10.254.41.0/24"), in(networked(t), "10.254.41.0/24"))
		reaches(t, second, ends[:3]...)
		serve(t, second, tcp("", 8080))
		saw := reaches(t, first, tcp(addressOf(t, second), 8080))
		for _, address := range saw {
			holds(t, address, addressOf(t, first)+":")
		}
	})
	long(t, "one that is destroyed is silent for its subnet, and one that comes later is not", func(t *testing.T) {
		first, second, ends := pair(t, in(networked(t), "10.254.42.9/24"), in(networked(t), "10.254.42.0/24"))
		reaches(t, second, ends[0])
		must(t, gard.Destroy(first.Handle()))
		closed(t, second, ends[:3]...)
		pair(t, in(networked(t), "10.254.42.9/24"), in(networked(t), "10.254.42.0/24"))
		reaches(t, second, ends[:3]...)
	})
	behaviour(t, "a rule that names the other's address opens what it says of it", func(t *testing.T) {
		first, second, ends := pair(t, networked(t), networked(t))
		must(t, second.NetOut(garden.NetOutRule{Protocol: garden.ProtocolTCP, Networks: only(addressOf(t, first)), Ports: ports(8080, 8080)}))
		reaches(t, second, ends[0])
		closed(t, second, ends[1:]...)
	})
	long(t, "a rule that names no address does not open other containers", func(t *testing.T) {
		_, second, ends := pair(t, networked(t), networked(t, garden.NetOutRule{}))
		reaches(t, second, everyWay(harness.Denied)...)
		closed(t, second, ends...)
	})
	long(t, "a destroyed container's address opens nothing for who had a rule to it, when another has it", func(t *testing.T) {
		first, second, _ := pair(t, in(networked(t), "10.254.43.9/24"), networked(t))
		must(t, gard.Destroy(first.Handle()))
		_, _, ends := pair(t, in(networked(t), "10.254.43.9/24"), networked(t))
		closed(t, second, ends...)
	})
}

func TestNodeItself(t *testing.T) {
	needsNetwork(t)
	behaviour(t, "no address of the node's answers a container, whatever its rules", func(t *testing.T) {
		heard := servesOnNode(t, 7201)
		for _, asked := range []garden.ContainerSpec{networked(t), networked(t, garden.NetOutRule{}), withProbe(t, privileged(t))} {
			container := create(t, asked)
			gateway := infoOf(t, container).HostIP
			closed(t, container,
				tcp(harness.Node, 7201), udp(harness.Node, 7201), tcp(harness.Node6, 7201), udp(harness.Node6, 7201),
				tcp(gateway, 7201), udp(gateway, 7201))
		}
		equal(t, "heard on the node", heard.String(), "")
	})
	long(t, "nor does the node's end of the link by its own address", func(t *testing.T) {
		servesOnNode(t, 7202)
		container := create(t, networked(t))
		address := addressOnLink(t, container)
		if address == "" {
			t.Skip("the node's end has none")
		}
		result := run(t, container, shell(fmt.Sprintf("nc -w 1 %s%%eth0 7202 </dev/null", address)))
		equal(t, "answer", result.stdout, "")
	})
	behaviour(t, "nor do its loopback's services, for who turns their own around", func(t *testing.T) {
		heard := servesOnNode(t, 7203)
		container := create(t, withProbe(t, privileged(t)))
		gateway := infoOf(t, container).HostIP
		sh(t, container, fmt.Sprintf(`set -e
			echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
			ip addr del 127.0.0.1/8 dev lo
			ip route add 127.0.0.0/8 via %s dev eth0 onlink src %s`, gateway, addressOf(t, container)))
		closed(t, container, tcp("127.0.0.1", 7203), udp("127.0.0.1", 7203))
		equal(t, "heard on the node", heard.String(), "")
	})
	long(t, "where the node is allowed, its services answer containers, and other containers do not", func(t *testing.T) {
		servesOnNode(t, 7204)
		open := own(t, "--allow-host-access")
		container, neighbour := createOn(t, open, networked(t)), createOn(t, open, networked(t))
		reaches(t, container, tcp(harness.Node, 7204), udp(harness.Node, 7204), tcp(infoOf(t, container).HostIP, 7204))
		serve(t, neighbour, tcp("0.0.0.0", 8080))
		closed(t, container, tcp(addressOf(t, neighbour), 8080))
	})
}

func TestForgedSources(t *testing.T) {
	needsNetwork(t)
	behaviour(t, "what says that it comes from another goes nowhere", func(t *testing.T) {
		container, neighbour := create(t, networked(t)), create(t, in(networked(t), "10.254.50.0/24"))
		victim := create(t, in(networked(t), "10.254.50.0/24"))
		heard := serve(t, victim, udp("0.0.0.0", 8080))
		text := unique("forged") + "."
		target := hostPort(harness.Near, harness.Port)
		for _, source := range []string{addressOf(t, neighbour), harness.Node, harness.Router, "127.0.0.1", "8.8.8.8", "10.80.255.254"} {
			attempt(t, container, "forge", source, target, text)
		}
		// By a neighbour's address it would reach who only its neighbours may reach.
		attempt(t, container, "forge", addressOf(t, neighbour), hostPort(addressOf(t, victim), 8080), text)
		attempt(t, neighbour, "forge", addressOf(t, neighbour), target, text+"own.")
		attempt(t, neighbour, "forge", addressOf(t, neighbour), hostPort(addressOf(t, victim), 8080), text+"own.")
		hears(t, outside, text+"own.")
		heard.awaits(t, text+"own.")
		for _, word := range outside.AllHeard(text) {
			if !strings.Contains(word, "own.") {
				t.Errorf("outside heard %q", word)
			}
		}
		for line := range strings.Lines(strings.TrimPrefix(heard.String(), "serving\n")) {
			if !strings.Contains(line, "own.") {
				t.Errorf("the victim %s", line)
			}
		}
	})
	long(t, "who takes another's address is not answered by it", func(t *testing.T) {
		victim := create(t, networked(t))
		thief := create(t, withProbe(t, privileged(t)))
		info := infoOf(t, victim)
		sh(t, thief, fmt.Sprintf(`set -e
			ip addr add %s/32 dev eth0
			ip -6 addr add %s/128 dev eth0
			ip route replace default via %s dev eth0 onlink src %s`, info.ContainerIP, info.ContainerIPv6, infoOf(t, thief).HostIP, info.ContainerIP))
		closed(t, thief, tcp(harness.Near, harness.Port), udp(harness.Near, harness.Port), icmp(harness.Near))
		reaches(t, victim, tcp(harness.Near, harness.Port), tcp(harness.Near6, harness.Port))
	})
	long(t, "a port in still leads to its container when another has taken the address", func(t *testing.T) {
		victim := listening(t, networked(t), garden.NetIn{HostPort: 7210, ContainerPort: 8080})
		thief := create(t, withProbe(t, privileged(t)))
		sh(t, thief, "ip addr add "+addressOf(t, victim)+"/32 dev eth0")
		stolen := serve(t, thief, tcp("0.0.0.0", 8080))
		answersFromOutside(t, outside, tcp(harness.Node, 7210))
		equal(t, "what the thief heard", stolen.String(), "serving\n")
	})
}
