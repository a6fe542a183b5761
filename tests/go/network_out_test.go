package garden_test

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"

	"github.com/gardend/gardend/tests/go/harness"
)

// family is what the tests of rules have once for IPv4 and once for IPv6.
type family struct {
	name string
	// Nobody denies the first; the others are denied.
	near, first, second, third string
	icmp                       garden.Protocol
	// An echo, and a message of another kind: with its code, one of the kernel's answers to echoes is another, too.
	echo int
	// Whom the outside sees.
	node string
}

var families = []family{
	{"IPv4", harness.Near, harness.Denied, harness.Second, harness.Third, garden.ProtocolICMP, 8, harness.Node},
	{"IPv6", harness.Near6, harness.Denied6, harness.Second6, harness.Third6, garden.ProtocolICMPv6, 128, harness.Node6},
}

// ports are ranges for a rule, from pairs.
func ports(pairs ...uint16) (ranges []garden.PortRange) {
	for i := 0; i < len(pairs); i += 2 {
		ranges = append(ranges, garden.PortRange{Start: pairs[i], End: pairs[i+1]})
	}
	return ranges
}

func icmps(kind int, code ...uint8) *garden.ICMPControl {
	control := &garden.ICMPControl{Type: garden.ICMPType(kind)}
	if len(code) > 0 {
		control.Code = garden.ICMPControlCode(code[0])
	}
	return control
}

// ruleCase is one rule, or several, and what they open of what is denied.
type ruleCase struct {
	name   string
	rules  []garden.NetOutRule
	open   []string
	closed []string
	// short cases are tried on every pair of a containerd and a runtime.
	short bool
}

func (f family) cases() []ruleCase {
	const first, second, third = harness.Port, harness.Port + 1, harness.Port + 2
	to := func(rule garden.NetOutRule, hosts ...string) []garden.NetOutRule {
		rule.Networks = only(hosts...)
		return []garden.NetOutRule{rule}
	}
	return []ruleCase{
		{
			name: "without rules everything is open but what is denied", short: true,
			open: everyWay(f.near), closed: append(everyWay(f.first), everyWay(f.third)...),
		},
		{
			name:  "a rule that names nothing opens everything",
			rules: []garden.NetOutRule{{}},
			open:  append(everyWay(f.first), everyWay(f.near)...),
		},
		{
			name: "a rule for an address opens all of it and nothing else", short: true,
			rules: to(garden.NetOutRule{}, f.second),
			open:  everyWay(f.second), closed: append(everyWay(f.first), everyWay(f.third)...),
		},
		{
			name:  "a rule for a range opens both of its ends and what is between",
			rules: []garden.NetOutRule{{Networks: []garden.IPRange{{Start: net.ParseIP(f.first), End: net.ParseIP(f.second)}}}},
			open:  append(everyWay(f.first), everyWay(f.second)...), closed: everyWay(f.third),
		},
		{
			name:  "a rule for several networks opens each",
			rules: to(garden.NetOutRule{}, f.first, f.third),
			open:  append(everyWay(f.first), everyWay(f.third)...), closed: everyWay(f.second),
		},
		{
			name:  "a network without an end is its start alone",
			rules: []garden.NetOutRule{{Networks: []garden.IPRange{{Start: net.ParseIP(f.second)}}}},
			open:  everyWay(f.second), closed: append(everyWay(f.first), everyWay(f.third)...),
		},
		{
			name:  "several rules open what each of them does",
			rules: append(to(garden.NetOutRule{Protocol: garden.ProtocolTCP}, f.first), to(garden.NetOutRule{Protocol: garden.ProtocolUDP}, f.second)...),
			open:  []string{tcp(f.first, first), udp(f.second, first)}, closed: []string{udp(f.first, first), tcp(f.second, first)},
		},
		{
			name:  "a rule for TCP opens TCP alone",
			rules: to(garden.NetOutRule{Protocol: garden.ProtocolTCP}, f.first),
			open:  []string{tcp(f.first, first), tcp(f.first, third)}, closed: []string{udp(f.first, first), icmp(f.first), other(f.first), tcp(f.second, first)},
		},
		{
			name: "a rule for TCP ports opens those", short: true,
			rules: to(garden.NetOutRule{Protocol: garden.ProtocolTCP, Ports: ports(second, second)}, f.first),
			open:  []string{tcp(f.first, second)}, closed: []string{tcp(f.first, first), tcp(f.first, third), udp(f.first, second), tcp(f.second, second)},
		},
		{
			name:  "a rule for a range of TCP ports opens both of its ends",
			rules: to(garden.NetOutRule{Protocol: garden.ProtocolTCP, Ports: ports(first, second)}, f.first),
			open:  []string{tcp(f.first, first), tcp(f.first, second)}, closed: []string{tcp(f.first, third)},
		},
		{
			name:  "a rule for several ranges of TCP ports opens each",
			rules: to(garden.NetOutRule{Protocol: garden.ProtocolTCP, Ports: ports(1, first, third, 65535)}, f.first),
			open:  []string{tcp(f.first, first), tcp(f.first, third)}, closed: []string{tcp(f.first, second)},
		},
		{
			name:  "a rule for ports without a network opens them everywhere",
			rules: []garden.NetOutRule{{Protocol: garden.ProtocolTCP, Ports: ports(third, third)}},
			open:  []string{tcp(f.first, third), tcp(f.second, third), tcp(f.near, first)}, closed: []string{tcp(f.first, first)},
		},
		{
			name:  "a rule for UDP opens UDP alone",
			rules: to(garden.NetOutRule{Protocol: garden.ProtocolUDP}, f.first),
			open:  []string{udp(f.first, first), udp(f.first, third)}, closed: []string{tcp(f.first, first), icmp(f.first), other(f.first), udp(f.second, first)},
		},
		{
			name: "a rule for UDP ports opens those", short: true,
			rules: to(garden.NetOutRule{Protocol: garden.ProtocolUDP, Ports: ports(second, third)}, f.first),
			open:  []string{udp(f.first, second), udp(f.first, third)}, closed: []string{udp(f.first, first), tcp(f.first, second)},
		},
		{
			name:  "a rule for ICMP opens all of its messages and nothing else",
			rules: to(garden.NetOutRule{Protocol: f.icmp}, f.first),
			open:  []string{icmp(f.first), message(f.first, f.echo, 5)}, closed: []string{tcp(f.first, first), udp(f.first, first), other(f.first), icmp(f.second)},
		},
		{
			name: "a rule for a type of ICMP opens every code of it", short: true,
			rules: to(garden.NetOutRule{Protocol: f.icmp, ICMPs: icmps(f.echo)}, f.first),
			open:  []string{icmp(f.first), message(f.first, f.echo, 3)}, closed: []string{icmp(f.second), tcp(f.first, first)},
		},
		{
			name:  "a rule for a type and a code of ICMP opens that code alone",
			rules: to(garden.NetOutRule{Protocol: f.icmp, ICMPs: icmps(f.echo, 3)}, f.first),
			open:  []string{message(f.first, f.echo, 3)}, closed: []string{icmp(f.first), message(f.first, f.echo, 2)},
		},
		{
			name:  "the code 0 is a code",
			rules: to(garden.NetOutRule{Protocol: f.icmp, ICMPs: icmps(f.echo, 0)}, f.first),
			open:  []string{icmp(f.first)}, closed: []string{message(f.first, f.echo, 3)},
		},
		{
			name:  "a rule for another type of ICMP does not open echoes",
			rules: to(garden.NetOutRule{Protocol: f.icmp, ICMPs: icmps(13)}, f.first),
			open:  []string{icmp(f.near)}, closed: []string{icmp(f.first)},
		},
	}
}

func TestRulesOut(t *testing.T) {
	needsNetwork(t)
	for _, family := range families {
		for _, row := range family.cases() {
			kind := long
			if row.short {
				kind = behaviour
			}
			kind(t, family.name+": "+row.name, func(t *testing.T) {
				container := create(t, networked(t, row.rules...))
				reaches(t, container, row.open...)
				if len(row.closed) > 0 {
					closed(t, container, row.closed...)
				}
			})
		}
	}
	long(t, "a rule for the time by ICMP opens that, and no echo", func(t *testing.T) {
		container := create(t, networked(t, garden.NetOutRule{Protocol: garden.ProtocolICMP, ICMPs: icmps(13)}))
		reaches(t, container, message(harness.Denied, 13, 0))
		closed(t, container, icmp(harness.Denied))
	})
	long(t, "rules for ICMP and for ICMPv6 are two things", func(t *testing.T) {
		four := create(t, networked(t, garden.NetOutRule{Protocol: garden.ProtocolICMP}))
		reaches(t, four, icmp(harness.Denied))
		closed(t, four, icmp(harness.Denied6))
		six := create(t, networked(t, garden.NetOutRule{Protocol: garden.ProtocolICMPv6}))
		reaches(t, six, icmp(harness.Denied6))
		closed(t, six, icmp(harness.Denied))
	})
	behaviour(t, "rules that come later hold at once, one by one and many at a time", func(t *testing.T) {
		container := create(t, networked(t))
		closed(t, container, tcp(harness.Denied, harness.Port), tcp(harness.Second, harness.Port), udp(harness.Third, harness.Port))
		must(t, container.NetOut(garden.NetOutRule{Protocol: garden.ProtocolTCP, Networks: only(harness.Denied)}))
		reaches(t, container, tcp(harness.Denied, harness.Port))
		closed(t, container, tcp(harness.Second, harness.Port), udp(harness.Third, harness.Port))
		must(t, container.BulkNetOut([]garden.NetOutRule{
			{Protocol: garden.ProtocolTCP, Networks: only(harness.Second)}, {Protocol: garden.ProtocolUDP, Networks: only(harness.Third)},
		}))
		reaches(t, container, tcp(harness.Denied, harness.Port), tcp(harness.Second, harness.Port), udp(harness.Third, harness.Port))
		closed(t, container, udp(harness.Denied, harness.Port), tcp(harness.Third, harness.Port))
	})
	long(t, "rules that say nothing new change nothing", func(t *testing.T) {
		rule := garden.NetOutRule{Protocol: garden.ProtocolTCP, Networks: only(harness.Denied)}
		container := create(t, networked(t, rule, rule))
		must(t, container.NetOut(rule))
		must(t, container.BulkNetOut([]garden.NetOutRule{rule, rule}))
		must(t, container.BulkNetOut(nil))
		reaches(t, container, tcp(harness.Denied, harness.Port))
		closed(t, container, udp(harness.Denied, harness.Port))
	})
	long(t, "a rule is one container's, and goes with it", func(t *testing.T) {
		asked := in(networked(t, garden.NetOutRule{}), "10.254.20.7/24")
		opened := create(t, asked)
		closed(t, create(t, networked(t)), everyWay(harness.Denied)...)
		reaches(t, opened, everyWay(harness.Denied)...)
		must(t, gard.Destroy(opened.Handle()))
		closed(t, create(t, in(networked(t), "10.254.20.7/24")), everyWay(harness.Denied)...)
	})
	long(t, "what a destroyed container was talking to is closed to who has its address next", func(t *testing.T) {
		asked := in(networked(t, garden.NetOutRule{}), "10.254.21.7/24")
		opened := create(t, asked)
		ends := []string{udp(harness.Denied, harness.Port) + "?from=4100", udp(harness.Denied6, harness.Port) + "?from=4101"}
		reaches(t, opened, ends...)
		must(t, gard.Destroy(opened.Handle()))
		next := create(t, in(networked(t), "10.254.21.7/24"))
		closed(t, next, ends...)
	})
	long(t, "a rule that makes no sense is refused with the field that does not, and nothing of its list is done", func(t *testing.T) {
		container := create(t, networked(t))
		address := net.ParseIP
		for name, wrong := range map[string]garden.NetOutRule{
			"addresses in the wrong order": {Networks: []garden.IPRange{{Start: address(harness.Second), End: address(harness.Denied)}}},
			"addresses of two families":    {Networks: []garden.IPRange{{Start: address(harness.Denied), End: address(harness.Denied6)}}},
			"ports in the wrong order":     {Protocol: garden.ProtocolTCP, Ports: ports(7002, 7001)},
			"a protocol that is unknown":   {Protocol: 9},
		} {
			right := garden.NetOutRule{Networks: only(harness.Denied)}
			if err := container.BulkNetOut([]garden.NetOutRule{right, wrong}); err == nil {
				t.Errorf("%s was taken", name)
			} else if strings.HasPrefix(err.Error(), "bad response") || strings.HasPrefix(err.Error(), "Backend error") {
				t.Errorf("%s: the client could not read the error: %v", name, err)
			}
			if err := container.NetOut(wrong); err == nil {
				t.Errorf("%s alone was taken", name)
			}
			asked := networked(t, right, wrong)
			if _, err := gard.Create(asked); err == nil {
				t.Errorf("a container with %s was made", name)
				must(t, gard.Destroy(asked.Handle))
			}
			equal(t, "listed", listed(t, asked.Handle), false)
		}
		closed(t, container, everyWay(harness.Denied)...)
	})
	behaviour(t, "a rule that logs names the container in what it writes, whatever the handle", func(t *testing.T) {
		for _, handle := range []string{unique("logged"), unique(strings.Repeat("long-", 50)), unique("odd \"\\{}$;* ünï")} {
			asked := networked(t, garden.NetOutRule{Protocol: garden.ProtocolTCP, Networks: only(harness.Denied), Log: true})
			asked.Handle = handle
			container := create(t, asked)
			reaches(t, container, tcp(harness.Denied, harness.Port))
			closed(t, container, udp(harness.Denied, harness.Port))
			prefixes := logPrefixes(t)
			// The kernel takes 127 bytes.
			start := handle[:min(len(handle), 60)]
			if !strings.Contains(strings.ToValidUTF8(prefixes, "?"), strings.ToValidUTF8(start, "?")) {
				t.Errorf("%q begins no prefix of %s", start, prefixes)
			}
			must(t, gard.Destroy(handle))
			if after := logPrefixes(t); strings.Contains(after, start) {
				t.Errorf("%q still begins a prefix of %s", start, after)
			}
		}
	})
	long(t, "many rules are taken in a moment, all hold, and cost others nothing", func(t *testing.T) {
		container, bystander := create(t, networked(t)), create(t, networked(t))
		var rules []garden.NetOutRule
		for i := range 1000 {
			rules = append(rules, garden.NetOutRule{
				Protocol: garden.ProtocolTCP, Networks: []garden.IPRange{{Start: net.IPv4(192, 0, byte(i>>7), byte(i<<1)), End: net.IPv4(192, 0, byte(i>>7), byte(i<<1))}},
				Ports: ports(uint16(1+i), uint16(2000+i)),
			})
		}
		rules = append(rules, garden.NetOutRule{Protocol: garden.ProtocolTCP, Networks: only(harness.Denied), Ports: ports(harness.Port, harness.Port)})
		begin := time.Now()
		must(t, container.BulkNetOut(rules))
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("1001 rules took %v", took)
		}
		reaches(t, container, tcp(harness.Denied, harness.Port))
		closed(t, container, tcp(harness.Denied, harness.Port+1), tcp(harness.Second, harness.Port))
		closed(t, bystander, tcp(harness.Denied, harness.Port))
	})
}

// logPrefixes is what the packet filter writes before what it logs.
func logPrefixes(t *testing.T) string {
	t.Helper()
	said, err := server.Run("nft", "-j", "list", "ruleset")
	must(t, err)
	var ruleset any
	must(t, json.Unmarshal([]byte(said), &ruleset))
	var found []string
	var walk func(any)
	walk = func(value any) {
		switch value := value.(type) {
		case []any:
			for _, element := range value {
				walk(element)
			}
		case map[string]any:
			if log, is := value["log"].(map[string]any); is {
				found = append(found, fmt.Sprint(log["prefix"]))
			}
			for _, element := range value {
				walk(element)
			}
		}
	}
	walk(ruleset)
	return strings.Join(found, "\n")
}

func TestWayOut(t *testing.T) {
	needsNetwork(t)
	for _, kind := range []struct {
		name  string
		asked func(*testing.T) garden.ContainerSpec
	}{{"an unprivileged", spec}, {"a privileged", privileged}} {
		behaviour(t, "who is outside sees the node's address and not "+kind.name+" container's", func(t *testing.T) {
			container := create(t, withProbe(t, kind.asked(t)))
			for _, family := range families {
				saw := reaches(t, container, tcp(family.near, harness.Port), udp(family.near, harness.Port), other(family.near))
				for end, address := range saw {
					if host, _, err := net.SplitHostPort(address); err == nil {
						address = host
					}
					equal(t, "seen by "+end, address, family.node)
				}
			}
		})
	}
	long(t, "what is refused far away is refused at once, since errors come back", func(t *testing.T) {
		container := create(t, networked(t))
		for _, family := range families {
			ends := []string{tcp(family.near, 9), udp(family.near, 9)}
			for end, outcome := range reach(t, container, 5*time.Second, "nobody", ends...) {
				equal(t, end, outcome, "ECONNREFUSED")
			}
		}
	})
	behaviour(t, "much data passes both ways, by packets as large as the uplink takes", func(t *testing.T) {
		container := create(t, networked(t))
		for _, family := range families {
			for _, verb := range []string{"send", "take"} {
				transfer(t, container, verb, hostPort(family.near, harness.Port), 4*mib)
			}
		}
	})
	long(t, "connections go on when other containers come and go", func(t *testing.T) {
		container := create(t, networked(t))
		// Slow answers: what comes in is not called for by what has just gone out.
		texts := []string{"slow " + unique("talk") + ".", "slow " + unique("talk6") + "."}
		starts(t, container, "talk", hostPort(harness.Near, harness.Port), texts[0])
		starts(t, container, "talk", hostPort(harness.Near6, harness.Port), texts[1])
		from := []string{hears(t, outside, texts[0]), hears(t, outside, texts[1])}
		for range 3 {
			asked := networked(t, garden.NetOutRule{})
			other, err := gard.Create(asked)
			must(t, err)
			reaches(t, other, tcp(harness.Near, harness.Port), udp(harness.Near6, harness.Port))
			must(t, gard.Destroy(asked.Handle))
		}
		for i, text := range texts {
			before := len(outside.AllHeard(text))
			eventually(t, patience, func() error {
				if now := len(outside.AllHeard(text)); now < before+3 {
					return fmt.Errorf("%q was heard %d times, and then %d", text, before, now)
				}
				return nil
			})
			now, _ := outside.Heard(text)
			equal(t, "where it comes from", now, from[i])
		}
	})
	behaviour(t, "what is sent and received is counted", func(t *testing.T) {
		container := create(t, networked(t))
		before := metricsOf(t, container).NetworkStat
		if before == nil {
			t.Fatal("no figures of the network")
		}
		transfer(t, container, "send", hostPort(harness.Near, harness.Port), 3*mib)
		transfer(t, container, "take", hostPort(harness.Near, harness.Port), 1*mib)
		after := metricsOf(t, container).NetworkStat
		within(t, "received", after.RxBytes-before.RxBytes, 3*mib, 4*mib)
		within(t, "sent", after.TxBytes-before.TxBytes, 1*mib, 2*mib)
		entries, err := gard.BulkMetrics([]string{container.Handle()})
		must(t, err)
		if bulk := entries[container.Handle()].Metrics.NetworkStat; bulk == nil || bulk.RxBytes < after.RxBytes {
			t.Fatalf("in bulk: %+v", bulk)
		}
	})
}

// transfer has a container receive ("send") or send ("take") so many bytes, and returns how long it took.
func transfer(t *testing.T, container garden.Container, verb, address string, bytes int) time.Duration {
	t.Helper()
	process := garden.ProcessSpec{Path: probe, Args: []string{"inside", "transfer", verb, address, fmt.Sprint(bytes)}}
	result := run(t, container, process)
	equal(t, result.stderr, result.status, 0)
	took, err := time.ParseDuration(strings.TrimSpace(result.stdout))
	must(t, err)
	return took
}

func TestDenyByDefault(t *testing.T) {
	needsNetwork(t)
	hermetic := own(t, "--deny-by-default", "--network-pool-v6", "fd67:6172:6465:6f::/64")
	// Anew for each test, as there are ends that two cannot reach at once.
	all := func() []string { return append(everyWay(harness.Near), everyWay(harness.Near6)...) }
	behaviour(t, "a container without rules reaches nobody, by any protocol, and asks nobody for names", func(t *testing.T) {
		container := createOn(t, hermetic, networked(t))
		closed(t, container, all()...)
		closed(t, container, tcp(harness.Router, harness.Port), udp(harness.Router, harness.Port), icmp(harness.Router), icmp(harness.Router6))
		equal(t, "resolv.conf", sh(t, container, "cat /etc/resolv.conf"), "")
		holds(t, sh(t, container, "cat /etc/hosts"), addressOf(t, container))
		sh(t, container, "ping -c1 -W2 127.0.0.1")
	})
	long(t, "one rule that only logs opens everything, names included", func(t *testing.T) {
		container := createOn(t, hermetic, networked(t, garden.NetOutRule{Log: true}))
		reaches(t, container, all()...)
		plain := create(t, spec(t))
		equal(t, "resolv.conf", sh(t, container, "cat /etc/resolv.conf"), sh(t, plain, "cat /etc/resolv.conf"))
	})
	long(t, "rules open what they name and nothing else", func(t *testing.T) {
		container := createOn(t, hermetic, networked(t, garden.NetOutRule{
			Protocol: garden.ProtocolTCP, Networks: only(harness.Near), Ports: ports(harness.Port, harness.Port),
		}))
		reaches(t, container, tcp(harness.Near, harness.Port))
		closed(t, container, tcp(harness.Near, harness.Port+1), udp(harness.Near, harness.Port), icmp(harness.Near), tcp(harness.Far, harness.Port), tcp(harness.Near6, harness.Port))
	})
	behaviour(t, "a rule that comes later opens a container that had none", func(t *testing.T) {
		container := createOn(t, hermetic, networked(t))
		closed(t, container, all()...)
		must(t, container.NetOut(garden.NetOutRule{}))
		reaches(t, container, all()...)
	})
	long(t, "who is in one subnet is reached without a rule", func(t *testing.T) {
		one := createOn(t, hermetic, in(networked(t), "10.254.30.0/24"))
		two := createOn(t, hermetic, in(networked(t), "10.254.30.0/24"))
		serve(t, one, tcp("0.0.0.0", 9000), udp("0.0.0.0", 9000))
		address := addressOf(t, one)
		reaches(t, two, tcp(address, 9000), udp(address, 9000), icmp(address))
	})
	behaviour(t, "a port in answers who comes from outside, though nothing may go out", func(t *testing.T) {
		asked := networked(t)
		asked.NetIn = []garden.NetIn{{ContainerPort: 9000}}
		container := createOn(t, hermetic, asked)
		serve(t, container, tcp("0.0.0.0", 9000), udp("0.0.0.0", 9000))
		port := int(infoOf(t, container).MappedPorts[0].HostPort)
		answersFromOutside(t, outside, tcp(harness.Node, port))
		answersFromOutside(t, outside, udp(harness.Node, port))
		closed(t, container, all()...)
	})
}
