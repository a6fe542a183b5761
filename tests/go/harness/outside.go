package harness

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gardend/gardend/tests/go/peer"
)

// Where everybody is, by addresses that are kept for examples.
const (
	// The node's own address on its uplink, and the router that it is connected to.
	Node    = "198.51.100.2"
	Node6   = "2001:db8:51::2"
	Router  = "198.51.100.1"
	Router6 = "2001:db8:51::1"
	// What lies behind the router: two places that everybody may reach ...
	Near, Far   = "203.0.113.1", "203.0.113.2"
	Near6, Far6 = "2001:db8:113::1", "2001:db8:113::2"
	// ... and three in networks that the suite's server denies.
	DeniedNetworks           = "203.0.113.128/25,2001:db8:113:d::/64"
	Denied, Second, Third    = "203.0.113.129", "203.0.113.130", "203.0.113.131"
	Denied6, Second6, Third6 = "2001:db8:113:d::1", "2001:db8:113:d::2", "2001:db8:113:d::3"
	// Where they answer by TCP and UDP: this port and the next two.
	Port = 7001
	// UplinkMTU is what passes between node and router.
	UplinkMTU = 1400
	// They answer by so many protocols that are nobody's, from this one on. What has no ports has no place for a
	// second container's packets to the same address, when all leave in the node's name: each attempt takes another.
	Protocol, Protocols = 150, 100
)

// Everybody are all addresses that answer behind the router.
var Everybody = []string{Near, Far, Denied, Second, Third, Near6, Far6, Denied6, Second6, Third6}

// Outside is a fake of the world behind a node's uplink: a namespace whose addresses answer, and hear. No packet
// leaves the machine.
type Outside struct {
	*Namespace
	mutex sync.Mutex
	heard []word
}

// word is a text that came, with what was around it where it has no ports, and where it came from.
type word struct{ text, from string }

// NewOutside makes one and connects a node's namespace with it: the node gets a link "up0", addresses and default
// routes. Whether its addresses are others' is not probed for, which takes a second. The calling thread's namespace is the node where none is given.
func NewOutside(node *Namespace) (*Outside, error) {
	if node == nil {
		var err error
		if node, err = thisNamespace(); err != nil {
			return nil, err
		}
		defer node.Close()
	}
	namespace, err := NewNamespace()
	if err != nil {
		return nil, err
	}
	outside := &Outside{Namespace: namespace}
	inOutside := []string{
		"link set out0 up mtu %d", "addr add " + Router + "/24 dev out0", "addr add " + Router6 + "/64 dev out0 nodad",
	}
	var ends []string
	for _, address := range Everybody {
		host := address
		if strings.Contains(address, ":") {
			inOutside = append(inOutside, "addr add "+address+"/128 dev lo nodad")
			host = "[" + address + "]"
		} else {
			inOutside = append(inOutside, "addr add "+address+"/32 dev lo")
		}
		// From the address that was asked, which only a socket of its own does by itself.
		for port := Port; port < Port+3; port++ {
			ends = append(ends, fmt.Sprintf("udp://%s:%d", host, port))
		}
	}
	for protocol := Protocol; protocol < Protocol+Protocols; protocol++ {
		ends = append(ends, fmt.Sprintf("ip://0.0.0.0?protocol=%d", protocol), fmt.Sprintf("ip://[::]?protocol=%d", protocol))
	}
	for port := Port; port < Port+3; port++ {
		ends = append(ends, fmt.Sprintf("tcp://:%d", port))
	}
	ends = append(ends, "icmp://0.0.0.0", "icmp://[::]")
	return outside, errors.Join(
		node.Do(func() error {
			add := exec.Command("ip", "link", "add", "up0", "mtu", fmt.Sprint(UplinkMTU), "type", "veth", "peer", "name", "out0", "netns", "/proc/self/fd/3")
			add.ExtraFiles = []*os.File{outside.file}
			if output, err := add.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %s", add, err, output)
			}
			if err := uncontested("up0"); err != nil {
				return err
			}
			return batch(
				"link set up0 up", "addr add "+Node+"/24 dev up0", "addr add "+Node6+"/64 dev up0 nodad",
				"route add default via "+Router, "route add ::/0 via "+Router6,
			)
		}),
		outside.Do(func() error {
			return batch(strings.Split(fmt.Sprintf(strings.Join(inOutside, "\n"), UplinkMTU), "\n")...)
		}),
		outside.Do(func() error { return peer.Serve(outside.hear, ends...) }),
	)
}

// uncontested makes a link's addresses its own at once.
func uncontested(link string) error {
	return os.WriteFile("/proc/sys/net/ipv6/conf/"+link+"/accept_dad", []byte("0"), 0o644)
}

func batch(lines ...string) error {
	_, err := command(strings.Join(lines, "\n"), "ip", "-batch", "-")
	return err
}

func (o *Outside) hear(text, from string) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	o.heard = append(o.heard, word{text, from})
}

// Heard says whether a text came to any of the addresses outside, by itself or within another, and from where.
func (o *Outside) Heard(text string) (from string, heard bool) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	for _, word := range slices.Backward(o.heard) {
		if strings.Contains(word.text, text) {
			return word.from, true
		}
	}
	return "", false
}

// AllHeard is everything that came outside and has a text in it.
func (o *Outside) AllHeard(text string) (found []string) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	for _, word := range o.heard {
		if strings.Contains(word.text, text) {
			found = append(found, word.text)
		}
	}
	return found
}

// Reach tries to reach an end from outside.
func (o *Outside) Reach(name, text string, patience time.Duration) (outcome string) {
	_ = o.Do(func() error {
		outcome = peer.Reach(name, text, patience)
		return nil
	})
	return outcome
}

// Dial connects from outside.
func (o *Outside) Dial(address string) (conn net.Conn, err error) {
	err = o.Do(func() error {
		conn, err = net.DialTimeout("tcp", address, 5*time.Second)
		return err
	})
	return conn, err
}
