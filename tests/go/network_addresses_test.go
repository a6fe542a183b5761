package garden_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"code.cloudfoundry.org/garden"

	"github.com/gardend/gardend/tests/go/harness"
)

func TestAddresses(t *testing.T) {
	needsNetwork(t)
	behaviour(t, "a container has an address of the pool, a gateway of its own, and the node's address outside", func(t *testing.T) {
		info := infoOf(t, create(t, spec(t)))
		address := ip(t, info.ContainerIP)
		equal(t, "in the pool", netip.MustParsePrefix("10.80.0.0/16").Contains(address), true)
		equal(t, "place in its subnet of four", address.As4()[3]%4, 2)
		equal(t, "gateway", info.HostIP, address.Prev().String())
		equal(t, "outside", info.ExternalIP, harness.Node)
		equal(t, "of the other pool", netip.MustParsePrefix(poolV6).Contains(ip(t, info.ContainerIPv6)), true)
	})
	behaviour(t, "inside, eth0 has the addresses, leads out, and is as wide as the node's uplink", func(t *testing.T) {
		for _, asked := range []garden.ContainerSpec{spec(t), privileged(t)} {
			container := create(t, asked)
			info := infoOf(t, container)
			holds(t, sh(t, container, "ip -o addr show dev eth0"), "inet "+info.ContainerIP+"/", "inet6 "+info.ContainerIPv6+"/")
			holds(t, sh(t, container, "ip route show default"), "via "+info.HostIP, "dev eth0")
			holds(t, sh(t, container, "ip -6 route show default"), "dev eth0")
			holds(t, sh(t, container, "ip -o link show dev eth0"), fmt.Sprintf("mtu %d", harness.UplinkMTU), "UP")
			equal(t, "links", sh(t, container, "ip -o link | wc -l"), "2\n")
		}
	})
	long(t, "an unprivileged root cannot change its addresses, links and routes", func(t *testing.T) {
		container := create(t, spec(t))
		for _, script := range []string{"ip addr add 10.1.1.1/24 dev eth0", "ip link set eth0 down", "ip route del default"} {
			if result := run(t, container, shell(script)); result.status == 0 {
				t.Errorf("%s succeeded", script)
			}
		}
	})
	long(t, "bulk info tells the addresses, too", func(t *testing.T) {
		container := create(t, spec(t))
		infos, err := gard.BulkInfo([]string{container.Handle()})
		must(t, err)
		equal(t, "address", infos[container.Handle()].Info.ContainerIP, addressOf(t, container))
	})
	behaviour(t, "an address that is asked for is given, with its subnet's first as the gateway", func(t *testing.T) {
		for network, want := range map[string][2]string{
			"10.254.1.10/24": {"10.254.1.10", "10.254.1.1"},
			"10.254.2.6":     {"10.254.2.6", "10.254.2.5"},
			"10.254.3.2/29":  {"10.254.3.2", "10.254.3.1"},
		} {
			info := infoOf(t, create(t, in(spec(t), network)))
			equal(t, network, [2]string{info.ContainerIP, info.HostIP}, want)
		}
	})
	behaviour(t, "of a subnet that is asked for, each container gets an address of its own", func(t *testing.T) {
		subnet := netip.MustParsePrefix("10.254.4.0/28")
		seen := map[string]bool{"10.254.4.0": true, "10.254.4.1": true, "10.254.4.15": true}
		for range 3 {
			info := infoOf(t, create(t, in(spec(t), subnet.String())))
			equal(t, "gateway", info.HostIP, "10.254.4.1")
			equal(t, info.ContainerIP+" in the subnet", subnet.Contains(ip(t, info.ContainerIP)), true)
			equal(t, info.ContainerIP+" given before", seen[info.ContainerIP], false)
			seen[info.ContainerIP] = true
		}
	})
	long(t, "what cannot be given is refused with the reason, and nothing is left of it", func(t *testing.T) {
		taken, asked := create(t, in(spec(t), "10.254.5.10/25")), spec(t)
		for network, parts := range map[string][]string{
			"10.254.5.10/25":   {"10.254.5.10", "already"},
			"10.254.5.1/25":    {"10.254.5.1", "gateway"},
			"10.254.5.127/25":  {"10.254.5.127", "broadcast"},
			"10.254.5.0/24":    {"10.254.5.0/24", "overlap", "10.254.5.0/25"},
			"10.254.5.64/26":   {"10.254.5.64/26", "overlap", "10.254.5.0/25"},
			"10.80.7.0/24":     {"10.80.7.0/24", "overlap", "10.80.0.0/16"},
			"10.0.0.0/8":       {"10.0.0.0/8", "overlap"},
			"198.51.100.16/28": {"198.51.100.16/28", "overlap"},
			"127.1.0.0/16":     {"127.1.0.0/16"},
			"224.0.0.0/24":     {"224.0.0.0/24"},
			"10.254.6.2/31":    {"10.254.6.2/31"},
			"10.254.6.2/32":    {"10.254.6.2/32"},
			"10.254.6.0/33":    {"10.254.6.0/33"},
			"10.254.6/24":      {"10.254.6/24"},
			"here":             {"here"},
			"fd00::2/64":       {"fd00::2/64"},
		} {
			_, err := gard.Create(in(asked, network))
			if err == nil {
				t.Errorf("%s was given", network)
				must(t, gard.Destroy(asked.Handle))
				continue
			}
			for _, part := range parts {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%s: %q is not in %q", network, part, err)
				}
			}
			equal(t, "listed", listed(t, asked.Handle), false)
		}
		equal(t, "the other's address", addressOf(t, taken), "10.254.5.10")
		create(t, asked)
	})
	long(t, "a destroy gives the address back at once, and with the last one the whole subnet", func(t *testing.T) {
		for _, network := range []string{"10.254.8.9/24", "10.254.8.9/24", "10.254.8.9/25", "10.254.8.0/23"} {
			asked := in(spec(t), network)
			_, err := gard.Create(asked)
			must(t, err)
			must(t, gard.Destroy(asked.Handle))
		}
	})
	behaviour(t, "the hosts file has the address and the name", func(t *testing.T) {
		for _, asked := range []garden.ContainerSpec{spec(t), privileged(t)} {
			container := create(t, asked)
			words := strings.Fields(sh(t, container, "grep "+addressOf(t, container)+" /etc/hosts"))
			equal(t, "words", strings.Join(words, " "), addressOf(t, container)+" "+container.Handle())
		}
	})
	long(t, "a pool that is used up refuses in these words, until a container goes", func(t *testing.T) {
		small := own(t, "--network-pool", "10.253.0.0/29", "--pool-size", "0")
		first := createOn(t, small, spec(t))
		createOn(t, small, spec(t))
		asked := spec(t)
		_, err := small.Create(asked)
		refused(t, err, "10.253.0.0/29")
		createOn(t, small, in(spec(t), "10.252.0.0/24"))
		must(t, small.Destroy(first.Handle()))
		createOn(t, small, asked)
	})
	long(t, "a hundred containers at once have an address each, and reach the outside", func(t *testing.T) {
		crowd := newNode(t, "--max-containers", "100", "--pool-size", "0")
		own, err := os.Executable()
		must(t, err)
		folder := root(t, false)
		containers := make([]garden.Container, 100)
		for i, err := range parallel(len(containers), func(i int) (err error) {
			containers[i], err = crowd.client().Create(garden.ContainerSpec{
				Handle: fmt.Sprintf("c%d", i), Image: garden.ImageRef{URI: "raw://" + folder},
				BindMounts: []garden.BindMount{{SrcPath: own, DstPath: probe}},
			})
			return err
		}) {
			if err != nil {
				t.Fatalf("container %d: %v", i, err)
			}
		}
		seen := map[string]int{}
		for i, container := range containers {
			address := addressOf(t, container)
			if before, given := seen[address]; given {
				t.Fatalf("%s is the address of both c%d and c%d", address, before, i)
			}
			seen[address] = i
			reaches(t, container, udp(harness.Near, harness.Port))
		}
		for i, err := range parallel(len(containers), func(i int) error { return crowd.client().Destroy(fmt.Sprintf("c%d", i)) }) {
			if err != nil {
				t.Errorf("destroy of c%d: %v", i, err)
			}
		}
		must(t, crowd.server.Census(0, patience))
	})
	behaviour(t, "the place of a container whose init was killed is made again with the same addresses, ports and rules", func(t *testing.T) {
		asked := networked(t, garden.NetOutRule{Networks: only(harness.Denied)})
		asked.NetIn = []garden.NetIn{{ContainerPort: 8080}}
		container := create(t, asked)
		before := infoOf(t, container)
		killInit(t, container)
		eventually(t, patience, func() error {
			process, err := container.Run(shell("true"), garden.ProcessIO{})
			if err == nil {
				_, err = waited(process, patience)
			}
			return err
		})
		after := infoOf(t, container)
		equal(t, "addresses", after.ContainerIP+after.ContainerIPv6+after.HostIP, before.ContainerIP+before.ContainerIPv6+before.HostIP)
		holds(t, sh(t, container, "ip -o addr show dev eth0"), "inet "+before.ContainerIP+"/")
		reaches(t, container, everyWay(harness.Denied)...)
		closed(t, container, everyWay(harness.Second)...)
		serve(t, container, tcp("0.0.0.0", 8080))
		answersFromOutside(t, outside, tcp(harness.Node, int(after.MappedPorts[0].HostPort)))
	})
}

// killInit kills a container's first process from the host.
func killInit(t *testing.T, container garden.Container) {
	t.Helper()
	words, err := os.ReadFile(filepath.Join(infoOf(t, container).ContainerPath, "init.pid"))
	must(t, err)
	pid, err := strconv.Atoi(strings.Fields(string(words))[0])
	must(t, err)
	must(t, syscall.Kill(pid, syscall.SIGKILL))
}

func TestNames(t *testing.T) {
	needsNetwork(t)
	// lines are those of a file like resolv.conf that say something.
	lines := func(text string) (found []string) {
		for line := range strings.Lines(text) {
			if line = strings.Join(strings.Fields(line), " "); line != "" && !strings.HasPrefix(line, "#") {
				found = append(found, line)
			}
		}
		return found
	}
	behaviour(t, "names are resolved as on the node, by its resolvers that can be reached from a container", func(t *testing.T) {
		content, err := os.ReadFile("/etc/resolv.conf")
		must(t, err)
		var want []string
		for _, line := range lines(string(content)) {
			if server, is := strings.CutPrefix(line, "nameserver "); is {
				if address, err := netip.ParseAddr(server); err != nil || address.IsLoopback() {
					continue
				}
			}
			want = append(want, line)
		}
		for _, asked := range []garden.ContainerSpec{spec(t), privileged(t)} {
			seen := lines(sh(t, create(t, asked), "cat /etc/resolv.conf"))
			if strings.Contains(strings.Join(want, "\n"), "nameserver") {
				equal(t, "resolv.conf", strings.Join(seen, "\n"), strings.Join(want, "\n"))
			}
		}
	})
	long(t, "the resolvers that gardend is told are the container's, and no others", func(t *testing.T) {
		told := own(t, "--dns-server", "192.0.2.53", "--dns-server", "2001:db8::53", "--external-ip", "192.0.2.80", "--network-mtu", "1280")
		container := createOn(t, told, spec(t))
		equal(t, "resolvers", sh(t, container, "grep nameserver /etc/resolv.conf"), "nameserver 192.0.2.53\nnameserver 2001:db8::53\n")
		equal(t, "the address outside", infoOf(t, container).ExternalIP, "192.0.2.80")
		holds(t, sh(t, container, "ip -o link show dev eth0"), "mtu 1280")
		equal(t, "IPv6 without a pool of it", infoOf(t, container).ContainerIPv6, "")
		equal(t, "IPv6 inside", run(t, container, shell("ip -6 -o addr show dev eth0 scope global | grep .")).status, 1)
	})
	long(t, "a process with an image of its own has its container's names", func(t *testing.T) {
		container := create(t, spec(t))
		_, ref := image(t, false)
		script := "cat /etc/hosts /etc/resolv.conf"
		equal(t, "files", run(t, container, inImage(ref, script)).stdout, sh(t, container, script))
	})
}

func TestNoNetwork(t *testing.T) {
	needsOwnServer(t)
	without := gard
	if outside != nil {
		without = own(t, "--network", "none")
	}
	behaviour(t, "without networks a container has its loopback alone, no address and no figures", func(t *testing.T) {
		container := createOn(t, without, spec(t))
		equal(t, "links", sh(t, container, "ip -o link | wc -l; ip -o link | grep -c LOOPBACK,UP"), "1\n1\n")
		info := infoOf(t, container)
		equal(t, "addresses", info.ContainerIP+info.ContainerIPv6+info.HostIP, "")
		if network := metricsOf(t, container).NetworkStat; network != nil {
			t.Fatalf("%+v", network)
		}
	})
	behaviour(t, "without networks what needs one is refused, and says so", func(t *testing.T) {
		container := createOn(t, without, spec(t))
		_, _, err := container.NetIn(0, 80)
		refused(t, err, "network")
		_, err = without.Create(in(spec(t), "10.254.0.0/24"))
		refused(t, err, "network")
		asked := spec(t)
		asked.NetIn = []garden.NetIn{{}}
		_, err = without.Create(asked)
		refused(t, err, "network")
	})
}
