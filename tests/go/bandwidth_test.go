package garden_test

import (
	"encoding/json"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"

	"github.com/gardend/gardend/tests/go/harness"
)

// slow asks for a container that gets a MiB a second each way.
func slow(t *testing.T) garden.ContainerSpec {
	t.Helper()
	asked := networked(t)
	asked.Limits.Bandwidth = garden.BandwidthLimits{RateInBytesPerSecond: mib, BurstRateInBytesPerSecond: mib / 4}
	return asked
}

// about fails unless a figure is another, by one part in a hundred.
func about(t *testing.T, what string, got, want uint64) {
	t.Helper()
	within(t, what, got, want-want/100, want+want/100)
}

func TestBandwidth(t *testing.T) {
	needsNetwork(t)
	behaviour(t, "a limit of the bandwidth is asked of the kernel, and read back from it", func(t *testing.T) {
		container := create(t, slow(t))
		limits, err := container.CurrentBandwidthLimits()
		must(t, err)
		about(t, "rate", limits.RateInBytesPerSecond, mib)
		about(t, "burst", limits.BurstRateInBytesPerSecond, mib/4)
		said, err := server.Run("tc", "-j", "-s", "qdisc", "show", "dev", linkOf(t, server.Run, container))
		must(t, err)
		var disciplines []struct {
			Kind    string
			Options struct{ Rate, Burst uint64 }
		}
		must(t, json.Unmarshal([]byte(said), &disciplines))
		for _, discipline := range disciplines {
			if discipline.Kind == "tbf" {
				about(t, "the kernel's rate", discipline.Options.Rate, mib)
				return
			}
		}
		t.Fatalf("no limit on the link: %s", said)
	})
	behaviour(t, "a rate without a burst gets one that suits it, and no rate is no limit", func(t *testing.T) {
		asked := networked(t)
		asked.Limits.Bandwidth.RateInBytesPerSecond = 10 * mib
		container := create(t, asked)
		limits, err := container.CurrentBandwidthLimits()
		must(t, err)
		about(t, "rate", limits.RateInBytesPerSecond, 10*mib)
		within(t, "burst", limits.BurstRateInBytesPerSecond, 2000, 10*mib)
		transfer(t, container, "send", hostPort(harness.Near, harness.Port), mib)
		asked = networked(t)
		asked.Limits.Bandwidth.BurstRateInBytesPerSecond = mib
		limits, err = create(t, asked).CurrentBandwidthLimits()
		must(t, err)
		equal(t, "rate", limits.RateInBytesPerSecond, 0)
	})
	for verb, name := range map[string]string{"send": "received", "take": "sent"} {
		long(t, "what is "+name+" takes the time that the limit says, of both families and kinds of container, and others are not held up", func(t *testing.T) {
			asked := slow(t)
			if verb == "take" {
				asked = withProbe(t, privileged(t))
				asked.Limits = slow(t).Limits
			}
			container, other := create(t, asked), create(t, networked(t))
			for _, host := range []string{harness.Near, harness.Near6} {
				// Once the burst is used up, every further MiB takes a second.
				took := transfer(t, container, verb, hostPort(host, harness.Port), 2*mib)
				within(t, "milliseconds of 2 MiB", uint64(took.Milliseconds()), 1500, 6000)
			}
			if took := transfer(t, other, verb, hostPort(harness.Near, harness.Port), 8*mib); took > 4*time.Second {
				t.Errorf("without a limit 8 MiB took %v", took)
			}
		})
	}
	long(t, "what comes by a port in obeys the limit, and a container's talk to itself does not", func(t *testing.T) {
		container := create(t, slow(t))
		serve(t, container, tcp("", 8080))
		port, _, err := container.NetIn(0, 8080)
		must(t, err)
		client := create(t, networked(t))
		took := transfer(t, client, "send", hostPort(harness.Node, int(port)), 2*mib)
		within(t, "milliseconds of 2 MiB", uint64(took.Milliseconds()), 1500, 6000)
		if took := transfer(t, container, "send", "127.0.0.1:8080", 8*mib); took > 4*time.Second {
			t.Errorf("8 MiB over its own loopback took %v", took)
		}
	})
	long(t, "a limit holds over a restart of gardend", func(t *testing.T) {
		node := newNode(t, "--pool-size", "0")
		asked := slow(t)
		container := node.create(asked)
		before := node.run("tc", "qdisc", "show", "dev", linkOf(t, node.namespace.Run, container))
		node.restart(func() {})
		container = node.again(container)
		equal(t, "the link's discipline", node.run("tc", "qdisc", "show", "dev", linkOf(t, node.namespace.Run, container)), before)
		limits, err := container.CurrentBandwidthLimits()
		must(t, err)
		about(t, "rate", limits.RateInBytesPerSecond, mib)
		took := transfer(t, container, "send", hostPort(harness.Near, harness.Port), 2*mib)
		within(t, "milliseconds of 2 MiB", uint64(took.Milliseconds()), 1500, 6000)
	})
}
