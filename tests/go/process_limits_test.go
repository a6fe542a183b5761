package garden_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"
)

// withLimits is a process with limits of its own.
func withLimits(process garden.ProcessSpec, limits garden.ProcessLimits) garden.ProcessSpec {
	process.OverrideContainerLimits = &limits
	return process
}

func ownMemory(bytes uint64) garden.ProcessLimits {
	return garden.ProcessLimits{Memory: garden.MemoryLimits{LimitInBytes: bytes}}
}

// groupsOfProcesses are the groups of processes with limits of their own, on the host.
func groupsOfProcesses(t *testing.T, container garden.Container) []string {
	t.Helper()
	var found []string
	for _, group := range groupsOf(t, container) {
		if strings.HasPrefix(filepath.Base(group), "process-") {
			found = append(found, group)
		}
	}
	return found
}

func awaitNoGroupsOfProcesses(t *testing.T, container garden.Container) {
	t.Helper()
	eventually(t, patience, func() error {
		if left := groupsOfProcesses(t, container); len(left) > 0 {
			return fmt.Errorf("there are %q", left)
		}
		return nil
	})
}

// ownGroup tells of a value in the group that the script's shell is in, from inside.
func ownGroup(controller, v1, v2 string) string {
	return fmt.Sprintf(`
		if grep -q ':%[1]s:' /proc/self/cgroup; then
			cat /sys/fs/cgroup/%[1]s$(grep ':%[1]s:' /proc/self/cgroup | cut -d: -f3)/%[2]s
		else
			cat /sys/fs/cgroup$(grep '^0::' /proc/self/cgroup | cut -d: -f3)/%[3]s
		fi`, controller, v1, v2)
}

func TestProcessWithLimits(t *testing.T) {
	readMemory := ownGroup("memory", "memory.limit_in_bytes", "memory.max")
	behaviour(t, "it is killed for more memory than it asked for, and its container goes on", func(t *testing.T) {
		container := create(t, spec(t))
		other := start(t, container, garden.ProcessSpec{Path: "sleep", Args: []string{"1000"}}, garden.ProcessIO{})
		result := run(t, container, withLimits(shell(fillMemory), ownMemory(memoryLimit)))
		equal(t, "status", result.status, 128+9)
		awaitOoms(t, container, 1, patience)
		equal(t, "afterwards", sh(t, container, "echo fine"), "fine\n")
		must(t, other.Signal(garden.SignalKill))
		wait(t, other)
		equal(t, "without a limit", run(t, container, shell(fillMemory)).status, 0)
	})
	behaviour(t, "it may have more than its container", func(t *testing.T) {
		container := memoryLimited(t)
		equal(t, "in the container's", run(t, container, shell(fillMemory)).status, 128+9)
		result := run(t, container, withLimits(shell(fillMemory), ownMemory(256*mib)))
		equal(t, result.stderr, result.status, 0)
		limit, err := container.CurrentMemoryLimits()
		must(t, err)
		equal(t, "the container's", limit.LimitInBytes, uint64(memoryLimit))
	})
	behaviour(t, "it may have more than a privileged container, which is limited as a whole", func(t *testing.T) {
		asked := privileged(t)
		asked.Limits.Memory.LimitInBytes = memoryLimit
		container := create(t, asked)
		result := run(t, container, withLimits(shell(fillMemory), ownMemory(256*mib)))
		equal(t, result.stderr, result.status, 0)
		awaitNoGroupsOfProcesses(t, container)
		equal(t, "afterwards", run(t, container, shell(fillMemory)).status, 128+9)
	})
	behaviour(t, "what it does not limit is limited as in its container", func(t *testing.T) {
		container := create(t, limited(t, garden.Limits{
			Memory: garden.MemoryLimits{LimitInBytes: memoryLimit}, Pid: garden.PidLimits{Max: 40},
		}))
		cpu := garden.ProcessLimits{CPU: garden.CPULimits{Weight: 512}}
		seen := run(t, container, withLimits(shell(readMemory), cpu)).stdout
		equal(t, "memory", seen, fmt.Sprintln(memoryLimit))
		pids := withLimits(shell(ownGroup("pids", "pids.max", "pids.max")), cpu)
		equal(t, "processes", run(t, container, pids).stdout, "40\n")
	})
	behaviour(t, "its weight of the processor is in force, by either name", func(t *testing.T) {
		container := create(t, spec(t))
		script := ownGroup("cpu", "cpu.shares", "cpu.weight")
		for _, cpu := range []garden.CPULimits{{Weight: 512}, {LimitInShares: 512}, {LimitInShares: 7, Weight: 512}} {
			seen := strings.TrimSpace(run(t, container, withLimits(shell(script), garden.ProcessLimits{CPU: cpu})).stdout)
			if seen != "512" && seen != "20" {
				t.Errorf("%+v: the weight is %s", cpu, seen)
			}
		}
	})
	behaviour(t, "no limits at all are the container's", func(t *testing.T) {
		container := memoryLimited(t)
		seen := run(t, container, withLimits(shell(readMemory), garden.ProcessLimits{})).stdout
		equal(t, "memory", seen, fmt.Sprintln(memoryLimit))
		equal(t, "groups", len(groupsOfProcesses(t, container)), 0)
	})
	behaviour(t, "its group is there while it runs and gone soon after", func(t *testing.T) {
		container := create(t, spec(t))
		process := withLimits(garden.ProcessSpec{Path: "sleep", Args: []string{"1000"}}, ownMemory(memoryLimit))
		started := start(t, container, process, garden.ProcessIO{})
		if len(groupsOfProcesses(t, container)) == 0 {
			t.Error("it has no group")
		}
		must(t, started.Signal(garden.SignalTerminate))
		wait(t, started)
		awaitNoGroupsOfProcesses(t, container)
	})
	behaviour(t, "one that cannot be started leaves no group", func(t *testing.T) {
		container := create(t, spec(t))
		_, err := container.Run(withLimits(garden.ProcessSpec{Path: "no-such-program"}, ownMemory(memoryLimit)), garden.ProcessIO{})
		if !errors.As(err, new(garden.ExecutableNotFoundError)) {
			t.Errorf("got %v", err)
		}
		awaitNoGroupsOfProcesses(t, container)
	})
	behaviour(t, "what it leaves behind is held to them too, and its group goes after that", func(t *testing.T) {
		container := create(t, spec(t))
		script := "sleep 1000 >/dev/null 2>&1 </dev/null & echo $!"
		left := strings.TrimSpace(run(t, container, withLimits(shell(script), ownMemory(memoryLimit))).stdout)
		holds(t, sh(t, container, "cat /proc/"+left+"/cgroup"), "/process-")
		sh(t, container, "kill -9 "+left)
		// Looked at again at the end of whatever ends next.
		eventually(t, patience, func() error {
			sh(t, container, "true")
			if left := groupsOfProcesses(t, container); len(left) > 0 {
				return fmt.Errorf("there are %q", left)
			}
			return nil
		})
	})
	behaviour(t, "each kill is an event, and the words name its own limit", func(t *testing.T) {
		container := create(t, limited(t, garden.Limits{Memory: garden.MemoryLimits{LimitInBytes: 256 * mib}}))
		for count := 1; count <= 3; count++ {
			run(t, container, withLimits(shell(fillMemory), ownMemory(memoryLimit)))
			awaitOoms(t, container, count, patience)
			awaitNoGroupsOfProcesses(t, container)
		}
		words, err := container.Property(messageProperty)
		must(t, err)
		holds(t, words, "own memory limit", fmt.Sprint(memoryLimit))
		// Kills in groups that have gone stay told, and are not told again.
		run(t, container, shell("true"))
		time.Sleep(200 * time.Millisecond)
		equal(t, "events", ooms(t, container), 3)
	})
	behaviour(t, "a child that is killed in its group is told of at once, though its parent goes on", func(t *testing.T) {
		container := create(t, spec(t))
		script := fillMemory + "; echo status $?; sleep 1000"
		started := start(t, container, withLimits(shell(script), ownMemory(memoryLimit)), garden.ProcessIO{})
		awaitOoms(t, container, 1, patience)
		must(t, started.Signal(garden.SignalKill))
		wait(t, started)
	})
	behaviour(t, "many with limits run at once, each in its own", func(t *testing.T) {
		container := memoryLimited(t)
		failures := parallel(20, func(number int) error {
			limit := uint64(40+number) * mib
			out := newBuffer()
			process, err := container.Run(withLimits(shell(readMemory), ownMemory(limit)), garden.ProcessIO{Stdout: out})
			if err == nil {
				_, err = waited(process, patience)
			}
			if err == nil && strings.TrimSpace(out.String()) != fmt.Sprint(limit) {
				err = fmt.Errorf("%d: %q", number, out.String())
			}
			return err
		})
		must(t, errors.Join(failures...))
		awaitNoGroupsOfProcesses(t, container)
	})
	behaviour(t, "one with an image of its own has them as well", func(t *testing.T) {
		container := memoryLimited(t)
		_, ref := image(t, false)
		process := withLimits(inImage(ref, fillMemory), ownMemory(256*mib))
		result := run(t, container, process)
		equal(t, result.stderr, result.status, 0)
		process = withLimits(inImage(ref, fillMemory), ownMemory(memoryLimit/2))
		equal(t, "status", run(t, container, process).status, 128+9)
		awaitOoms(t, container, 1, patience)
		awaitNoGroupsOfProcesses(t, container)
	})
	behaviour(t, "bulk_metrics tells its own figures by the id of one with an image", func(t *testing.T) {
		container := create(t, spec(t))
		hold := "head -c 20000000 /dev/zero >/dev/shm/held; echo held; sleep 1000"
		ids := map[string]garden.ProcessSpec{}
		_, ref := image(t, false)
		limitedId, plainId, bareId := unique("limited"), unique("plain"), unique("bare")
		ids[limitedId] = withLimits(inImage(ref, hold), ownMemory(64*mib))
		ids[plainId] = inImage(ref, "echo held; sleep 1000")
		ids[bareId] = shell("echo held; sleep 1000")
		for id, process := range ids {
			process.ID = id
			out := newBuffer()
			started := start(t, container, process, garden.ProcessIO{Stdout: out})
			out.awaits(t, "held\n")
			defer func() {
				must(t, started.Signal(garden.SignalKill))
				wait(t, started)
			}()
		}
		metrics, err := gard.BulkMetrics([]string{container.Handle(), limitedId, plainId, bareId})
		must(t, err)
		own, whole, plain := metrics[limitedId], metrics[container.Handle()], metrics[plainId]
		for name, entry := range map[string]garden.ContainerMetricsEntry{"own": own, "whole": whole, "plain": plain} {
			if entry.Err != nil {
				t.Fatalf("%s: %v", name, entry.Err)
			}
		}
		equal(t, "its processes", own.Metrics.PidStat.Current, uint64(1))
		if whole.Metrics.PidStat.Current < 3 || plain.Metrics.PidStat.Current < 3 {
			t.Errorf("the container has %+v, and the one in it %+v", whole.Metrics.PidStat, plain.Metrics.PidStat)
		}
		if used := own.Metrics.MemoryStat.TotalUsageTowardLimit; used < 20000000 || used > 64*mib {
			t.Errorf("it uses %d bytes", used)
		}
		if own.Metrics.Age <= 0 || own.Metrics.Age > whole.Metrics.Age {
			t.Errorf("it is %v old, and its container %v", own.Metrics.Age, whole.Metrics.Age)
		}
		if metrics[bareId].Err == nil {
			t.Error("one without an image is no container, and its figures are its container's")
		}
	})
	long(t, "a restart of gardend takes its limits over, and what is killed in it is told once", func(t *testing.T) {
		server, gard := restartable(t)
		asked := spec(t)
		container, err := gard().Create(asked)
		must(t, err)
		run(t, container, withLimits(shell("exec "+fillMemory), ownMemory(memoryLimit)))
		awaitOoms(t, container, 1, patience)
		awaitNoGroupsOfProcesses(t, container)
		process := withLimits(shell("sleep 1; "+fillMemory+"; setsid sleep 1000 & exec sleep 1000"), ownMemory(memoryLimit))
		process.ID = "limited"
		start(t, container, process, garden.ProcessIO{})
		server.restart(t, 3*time.Second)
		container = on(t, gard(), container)
		awaitOoms(t, container, 2, patience)
		holds(t, sh(t, container, "cat /proc/$(pidof sleep | cut -d' ' -f1)/cgroup"), "/process-")
		again, err := container.Attach("limited", garden.ProcessIO{})
		must(t, err)
		must(t, again.Signal(garden.SignalKill))
		wait(t, again)
		sh(t, container, "killall -9 sleep")
		eventually(t, patience, func() error {
			sh(t, container, "true")
			if left := groupsOfProcesses(t, container); len(left) > 0 {
				return fmt.Errorf("there are %q", left)
			}
			return nil
		})
		server.restart(t, 0)
		container = on(t, gard(), container)
		run(t, container, withLimits(shell("exec "+fillMemory), ownMemory(memoryLimit)))
		awaitOoms(t, container, 3, patience)
		must(t, gard().Destroy(container.Handle()))
	})
	behaviour(t, "a destroyed container leaves none of their groups", func(t *testing.T) {
		container := create(t, spec(t))
		start(t, container, withLimits(garden.ProcessSpec{Path: "sleep", Args: []string{"1000"}}, ownMemory(memoryLimit)), garden.ProcessIO{})
		groups := groupsOfProcesses(t, container)
		equal(t, "there are groups", len(groups) > 0, true)
		must(t, gard.Destroy(container.Handle()))
		eventually(t, patience, func() error {
			for _, group := range groups {
				if _, err := os.Stat(group); err == nil {
					return fmt.Errorf("%s is left", group)
				}
			}
			return nil
		})
	})
}
