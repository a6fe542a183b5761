package garden_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"code.cloudfoundry.org/garden"

	"github.com/gardend/gardend/tests/go/harness"
)

// Containers in a network of the node's own plugins, instead of gardend's.

// plugins is where Debian has them.
const plugins = "/usr/lib/cni"

// slowPlugin is a plugin that works until it is let go on, and then fails; DEL is nothing to it.
const slowPlugin = `#!/bin/sh
input=$(cat)
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}';;
ADD) [ -e %[1]s/slow ] || { printf %%s "$input" | sed 's/.*"prevResult"://; s/,"type":"slow".*//'; exit; }
  touch %[1]s/works; while [ -e %[1]s/slow ]; do sleep 0.1; done; exit 1;;
esac
`

// cniNode is a node with a chain of plugins, and the folder where their leases and switches are.
func cniNode(t *testing.T, chain []map[string]any, arguments ...string) (*node, string) {
	t.Helper()
	needsNetwork(t)
	if _, err := os.Stat(filepath.Join(plugins, "ptp")); err != nil {
		t.Skipf("there are no plugins of CNI on this machine: %v", err)
	}
	folder := folder(t)
	chain[0]["ipam"] = map[string]any{
		"type": "host-local", "dataDir": filepath.Join(folder, "leases"),
		"ranges": [][]map[string]string{{{"subnet": "10.91.0.0/24"}}},
		"routes": []map[string]string{{"dst": "0.0.0.0/0"}},
	}
	text, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "suite", "plugins": chain})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(folder, "10-suite.conflist"), text, 0o600))
	must(t, os.Mkdir(filepath.Join(folder, "bin"), 0o700))
	must(t, os.WriteFile(filepath.Join(folder, "bin", "slow"), fmt.Appendf(nil, slowPlugin, folder), 0o700))
	words := []string{
		"--network", "cni", "--cni-conf-dir", folder, "--cni-bin-dir", filepath.Join(folder, "bin"), "--cni-bin-dir", plugins,
		"--pool-size", "0",
	}
	return newNode(t, append(words, arguments...)...), folder
}

// leases are the addresses that plugins hold for somebody.
func leases(folder string) (held []string) {
	entries, _ := os.ReadDir(filepath.Join(folder, "leases", "suite"))
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "10.") {
			held = append(held, entry.Name())
		}
	}
	return held
}

// leavesNothing fails if anything of containers is left by gardend or by plugins.
func (n *node) leavesNothing(folder string) {
	n.t.Helper()
	if held := leases(folder); len(held) > 0 {
		n.t.Errorf("leases are left: %v", held)
	}
	for _, name := range []string{"state/cni", "run/cni/netns", "run/cni/turns"} {
		entries, err := os.ReadDir(filepath.Join(n.server.Folder, name))
		must(n.t, err)
		if len(entries) > 0 {
			n.t.Errorf("%s is left in %s", entries[0].Name(), name)
		}
	}
	if rules := n.run("iptables", "-t", "nat", "-S"); strings.Contains(rules, "10.91.") || strings.Contains(rules, "CNI-DN-") {
		n.t.Errorf("rules are left:\n%s", rules)
	}
	if links := n.run("ip", "-o", "link"); strings.Contains(links, "veth") {
		n.t.Errorf("links are left:\n%s", links)
	}
}

func TestNetworkOfPlugins(t *testing.T) {
	ptp := func() map[string]any { return map[string]any{"type": "ptp", "ipMasq": true} }
	portmap := map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}}
	behaviour(t, "gives containers addresses, ways out and ports in, over restarts, and leaves nothing", func(t *testing.T) {
		node, folder := cniNode(t, []map[string]any{ptp(), portmap}, "--deny-network", harness.DeniedNetworks)
		asked := networked(t, garden.NetOutRule{Networks: only(harness.Second)})
		asked.NetIn = []garden.NetIn{{HostPort: 7301, ContainerPort: 8080}}
		asked.Limits.Bandwidth = garden.BandwidthLimits{RateInBytesPerSecond: 4 << 20, BurstRateInBytesPerSecond: 1 << 20}
		container := node.create(asked)
		before := infoOf(t, container)
		if held := leases(folder); len(held) != 1 || held[0] != before.ContainerIP || before.HostIP != "10.91.0.1" {
			t.Errorf("info says %s by %s, and plugins hold %v", before.ContainerIP, before.HostIP, held)
		}
		if hosts := sh(t, container, "cat /etc/hosts"); !strings.Contains(hosts, before.ContainerIP+"\t"+asked.Handle) {
			t.Errorf("/etc/hosts does not say where the container is:\n%s", hosts)
		}
		starts(t, container, "serve", tcp("", 8080))
		host, _, err := container.NetIn(7302, 8080)
		must(t, err)
		if host != 7302 {
			t.Errorf("port 7302 was asked for and %d given", host)
		}
		must(t, container.NetOut(garden.NetOutRule{Protocol: garden.ProtocolTCP, Networks: only(harness.Third)}))
		works := func() {
			t.Helper()
			reaches(t, container, tcp(harness.Near, harness.Port), tcp(harness.Second, harness.Port), tcp(harness.Third, harness.Port))
			node.shut(container, tcp(harness.Denied, harness.Port), udp(harness.Third, harness.Port))
			for _, port := range []int{7301, 7302} {
				answersFromOutside(t, node.outside, tcp(harness.Node, port))
			}
			if limits, err := container.CurrentBandwidthLimits(); err != nil || limits.RateInBytesPerSecond != 4<<20 {
				t.Errorf("the limit of the bandwidth is %v, %v", limits, err)
			}
		}
		works()
		node.restart(func() {})
		container = node.again(container)
		if after := infoOf(t, container); after.ContainerIP != before.ContainerIP {
			t.Errorf("it was at %s and is at %s", before.ContainerIP, after.ContainerIP)
		}
		works()
		must(t, node.client().Destroy(asked.Handle))
		node.leavesNothing(folder)
	})
	behaviour(t, "undoes what plugins had begun when gardend was killed", func(t *testing.T) {
		node, folder := cniNode(t, []map[string]any{ptp(), portmap, {"type": "slow"}})
		must(t, os.WriteFile(filepath.Join(folder, "slow"), nil, 0o600))
		asked := networked(t)
		asked.NetIn = []garden.NetIn{{HostPort: 7301, ContainerPort: 8080}}
		failed := make(chan error, 1)
		client := node.client()
		go func() {
			_, err := client.Create(asked)
			failed <- err
		}()
		eventually(t, patience, func() error {
			_, err := os.Stat(filepath.Join(folder, "works"))
			return err
		})
		if held := leases(folder); len(held) != 1 {
			t.Errorf("plugins hold %v", held)
		}
		node.restart(func() {
			if err := <-failed; err == nil {
				t.Error("a create that was not finished was answered")
			}
		})
		node.leavesNothing(folder)
		must(t, os.Remove(filepath.Join(folder, "slow")))
		container := node.create(asked)
		reaches(t, container, tcp(harness.Near, harness.Port))
		must(t, node.client().Destroy(asked.Handle))
		node.leavesNothing(folder)
	})
	behaviour(t, "says which plugin failed and why", func(t *testing.T) {
		node, folder := cniNode(t, []map[string]any{ptp(), {"type": "missing"}})
		_, err := node.client().Create(networked(t))
		if err == nil || !strings.Contains(err.Error(), "plugin missing") {
			t.Errorf("a create by a plugin that is not there: %v", err)
		}
		node.leavesNothing(folder)
	})
}
