// Package peer is both ends of what the tests try over a network: one that answers, in a container, on the node or
// outside of it, and one that reaches for it and says what came of that.
//
// An end is named like tcp://203.0.113.1:7001, udp://[2001:db8::1]:7001?from=4000 (by a port of one's own), icmp://203.0.113.1?type=8&code=0 (also of an
// IPv6 address, with ICMPv6's numbers) or ip://203.0.113.1?protocol=253. What answers says first whom it sees, which
// is how a translated address shows; then it gives back what it was sent.
package peer

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
)

// end is one that can be reached.
type end struct {
	// tcp, udp, icmp or ip.
	scheme string
	// Without one: every address.
	host netip.Addr
	port uint16
	// One's own; 0: any.
	from uint16
	// Of an ICMP message.
	kind, code uint8
	// Of an IP packet that is none of the others.
	protocol uint8
}

func parse(name string) (end, error) {
	parsed, err := url.Parse(name)
	if err != nil {
		return end{}, err
	}
	found := end{scheme: parsed.Scheme, kind: 8}
	if host := parsed.Hostname(); host != "" {
		if found.host, err = netip.ParseAddr(host); err != nil {
			return end{}, err
		}
	}
	if found.host.Is6() {
		found.kind = 128
	}
	number := func(text string, bits int) (value uint64, is bool) {
		if text == "" || err != nil {
			return 0, false
		}
		value, err = strconv.ParseUint(text, 10, bits)
		return value, err == nil
	}
	asked := parsed.Query().Get
	if value, is := number(asked("type"), 8); is {
		found.kind = uint8(value)
	}
	if value, is := number(asked("code"), 8); is {
		found.code = uint8(value)
	}
	if value, is := number(asked("protocol"), 8); is {
		found.protocol = uint8(value)
	}
	if value, is := number(asked("from"), 16); is {
		found.from = uint16(value)
	}
	if value, is := number(parsed.Port(), 16); is {
		found.port = uint16(value)
	}
	if err != nil {
		return end{}, fmt.Errorf("%s: %w", name, err)
	}
	switch found.scheme {
	case "tcp", "udp", "icmp", "ip":
		return found, nil
	}
	return end{}, fmt.Errorf("%s: no such kind of end", name)
}

// address is what package net takes for TCP and UDP.
func (e end) address() string {
	host := ""
	if e.host.IsValid() {
		host = e.host.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(e.port)))
}

// packets is the network of package net for what has no ports.
func (e end) packets() string {
	switch {
	case e.scheme == "ip" && e.host.Is6():
		return "ip6:" + strconv.Itoa(int(e.protocol))
	case e.scheme == "ip":
		return "ip4:" + strconv.Itoa(int(e.protocol))
	case e.host.Is6():
		return "ip6:ipv6-icmp"
	}
	return "ip4:icmp"
}
