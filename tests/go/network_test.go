package garden_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/garden/client"

	"github.com/gardend/gardend/tests/go/harness"
	"github.com/gardend/gardend/tests/go/inside"
	"github.com/gardend/gardend/tests/go/peer"
)

// What the tests of networks share. In them a container's probe reaches for "ends" (package peer) outside, on the
// node or in another container, and says which answered.

// refusal is how long an end that must not answer is given to do so; what must answer has patience.
const refusal = 700 * time.Millisecond

// needsNetwork skips what this machine's kernel, or a server that is not the suite's, cannot show.
func needsNetwork(t *testing.T) {
	t.Helper()
	needsOwnServer(t)
	if outside == nil {
		t.Skipf("containers have no network here: %s=none", harness.NetworkOption)
	}
}

// tcp, udp and icmp name ends.
func tcp(host string, port int) string { return "tcp://" + hostPort(host, port) }
func udp(host string, port int) string { return "udp://" + hostPort(host, port) }
func icmp(host string) string          { return "icmp://" + hostPort(host, 0) }

// message is an ICMP message that is answered where it comes through.
func message(host string, kind, code int) string {
	return fmt.Sprintf("%s?type=%d&code=%d", icmp(host), kind, code)
}

var others atomic.Int64

// other is an end by a protocol that is neither TCP, UDP nor ICMP.
func other(host string) string {
	return fmt.Sprintf("ip://%s?protocol=%d", hostPort(host, 0), harness.Protocol+others.Add(1)%harness.Protocols)
}

func hostPort(host string, port int) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port == 0 {
		return host
	}
	return fmt.Sprintf("%s:%d", host, port)
}

// everyWay are the ends of a host outside by every protocol.
func everyWay(host string) []string {
	return []string{tcp(host, harness.Port), udp(host, harness.Port), icmp(host), other(host)}
}

// reach is what came of reaching for ends from inside a container, all at the same time.
func reach(t *testing.T, container garden.Container, patience time.Duration, text string, ends ...string) map[string]string {
	t.Helper()
	words := append([]string{"reach", fmt.Sprint(patience.Milliseconds()), text}, ends...)
	return look(t, container, "", words...)
}

// reaches fails unless every end answers the container, and returns which address each saw.
func reaches(t *testing.T, container garden.Container, ends ...string) map[string]string {
	t.Helper()
	saw := map[string]string{}
	for end, outcome := range reach(t, container, patience, unique("open")+".", ends...) {
		seen, answered := strings.CutPrefix(outcome, peer.Answered)
		if !answered {
			t.Errorf("%s does not answer: %s", end, outcome)
		}
		saw[end] = seen
	}
	return saw
}

// closed fails if any end answers the container, or anybody outside hears of the attempt.
func closed(t *testing.T, container garden.Container, ends ...string) {
	t.Helper()
	text := unique("closed") + "."
	for end, outcome := range reach(t, container, refusal, text, ends...) {
		if strings.HasPrefix(outcome, peer.Answered) {
			t.Errorf("%s: %s", end, outcome)
		}
	}
	if from, heard := outside.Heard(text); heard {
		t.Errorf("one of %q was reached from %s", ends, from)
	}
}

// hears waits until somebody outside has heard a text, and returns from where it came.
func hears(t *testing.T, world *harness.Outside, text string) (from string) {
	t.Helper()
	eventually(t, patience, func() error {
		var heard bool
		if from, heard = world.Heard(text); !heard {
			return fmt.Errorf("%q was not heard", text)
		}
		return nil
	})
	return from
}

// answersFromOutside fails unless an end answers somebody outside, and returns which address it saw.
func answersFromOutside(t *testing.T, world *harness.Outside, end string) (saw string) {
	t.Helper()
	outcome := world.Reach(end, unique("outside")+".", patience)
	saw, answered := strings.CutPrefix(outcome, peer.Answered)
	if !answered {
		t.Errorf("%s does not answer somebody outside: %s", end, outcome)
	}
	return saw
}

// only are ranges of one address each, for a rule.
func only(hosts ...string) []garden.IPRange {
	var ranges []garden.IPRange
	for _, host := range hosts {
		ranges = append(ranges, garden.IPRangeFromIP(net.ParseIP(host)))
	}
	return ranges
}

// networked asks for an unprivileged container that can be probed with, with these rules out.
func networked(t *testing.T, rules ...garden.NetOutRule) garden.ContainerSpec {
	t.Helper()
	asked := withProbe(t, spec(t))
	asked.NetOut = rules
	return asked
}

// in asks for a network.
func in(asked garden.ContainerSpec, network string) garden.ContainerSpec {
	asked.Network = network
	return asked
}

// serve starts a listener of the container's at these ends, and returns what it hears.
func serve(t *testing.T, container garden.Container, ends ...string) *buffer {
	t.Helper()
	stdout, stderr := newBuffer(), newBuffer()
	process := garden.ProcessSpec{Path: probe, Args: append([]string{inside.Word, "serve"}, ends...)}
	start(t, container, process, garden.ProcessIO{Stdout: stdout, Stderr: stderr})
	eventually(t, patience, func() error {
		if !strings.Contains(stdout.String(), "serving\n") {
			return fmt.Errorf("it does not serve: %s", stderr)
		}
		return nil
	})
	return stdout
}

// addressOf is a container's IPv4 address.
func addressOf(t *testing.T, container garden.Container) string {
	t.Helper()
	return infoOf(t, container).ContainerIP
}

func infoOf(t *testing.T, container garden.Container) garden.ContainerInfo {
	t.Helper()
	info, err := container.Info()
	must(t, err)
	return info
}

func ip(t *testing.T, text string) netip.Addr {
	t.Helper()
	address, err := netip.ParseAddr(text)
	must(t, err)
	return address
}

// node is a machine of the test's own, as far as the network goes: a namespace with a gardend in it, and a fake world
// outside. What it does to its network disturbs no other test.
type node struct {
	t         *testing.T
	namespace *harness.Namespace
	outside   *harness.Outside
	options   harness.Options
	server    *harness.Server
}

func newNode(t *testing.T, arguments ...string) *node {
	t.Helper()
	needsNetwork(t)
	namespace, err := harness.NewNamespace()
	must(t, err)
	t.Cleanup(func() { must(t, namespace.Close()) })
	world, err := harness.NewOutside(namespace)
	must(t, err)
	t.Cleanup(func() { must(t, world.Close()) })
	made := &node{t: t, namespace: namespace, outside: world, options: harness.Options{Arguments: arguments, Namespace: namespace}}
	made.server, err = harness.Start(made.options)
	must(t, err)
	made.options.Folder = made.server.Folder
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server's log ends:\n%s", made.server.Log())
		}
		made.server.Kill()
		must(t, made.server.TearDown())
	})
	return made
}

// client is one of the gardend that runs at present.
func (n *node) client() client.Client { return clientOn(n.server) }

// run runs a program of the machine's in the node's network.
func (n *node) run(program string, arguments ...string) string {
	n.t.Helper()
	said, err := n.namespace.Run(program, arguments...)
	must(n.t, err)
	return said
}

// restart kills gardend, does something, and starts it again.
func (n *node) restart(meanwhile func()) {
	n.t.Helper()
	n.server.Kill()
	meanwhile()
	var err error
	n.server, err = harness.Start(n.options)
	must(n.t, err)
}

func TestTheWorldOutside(t *testing.T) {
	needsNetwork(t)
	behaviour(t, "answers the node by every protocol, at every address, and hears it", func(t *testing.T) {
		text := unique("node") + "."
		for _, host := range harness.Everybody {
			for _, end := range everyWay(host) {
				outcome := peer.Reach(end, text+end, patience)
				if !strings.HasPrefix(outcome, peer.Answered) {
					t.Errorf("%s: %s", end, outcome)
				}
				hears(t, outside, text+end)
			}
		}
	})
	behaviour(t, "is silent where nobody is", func(t *testing.T) {
		for _, end := range []string{tcp("203.0.113.77", harness.Port), udp("203.0.113.77", harness.Port), icmp("203.0.113.77")} {
			if outcome := peer.Reach(end, "nobody", refusal); strings.HasPrefix(outcome, peer.Answered) {
				t.Errorf("%s: %s", end, outcome)
			}
		}
	})
	behaviour(t, "is in a namespace of the suite's, and nothing of the machine's own network is in sight", func(t *testing.T) {
		links, err := os.ReadFile("/proc/net/dev")
		must(t, err)
		for line := range strings.Lines(string(links)) {
			name, _, is := strings.Cut(strings.TrimSpace(line), ":")
			if is && name != "lo" && name != "up0" && !strings.HasPrefix(name, "gd") {
				t.Errorf("link %s", name)
			}
		}
	})
}
