package garden_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/garden/client"

	"github.com/gardend/gardend/tests/go/harness"
)

const (
	mib = 1 << 20
	// memoryLimit is less than /dev/shm holds.
	memoryLimit = 32 * mib
	outOfMemory = "Out of memory"
	// messageProperty tells in words what last happened to a container.
	messageProperty = "gardend.message"
	// fillMemory takes more memory than the limit, in a process that is killed for it.
	fillMemory = "dd if=/dev/zero of=/dev/null bs=100M count=1"
	// fillShm does the same with pages that outlive their writer. What is next to run has the room of its buffer, which
	// does not: the few pages of a small program alone are less than what each processor holds charged in advance.
	fillShm = "dd if=/dev/zero of=/dev/shm/full bs=4M count=1000"
)

// limited asks for a container with these limits.
func limited(t *testing.T, limits garden.Limits) garden.ContainerSpec {
	t.Helper()
	asked := spec(t)
	asked.Limits = limits
	return asked
}

func memoryLimited(t *testing.T) garden.Container {
	t.Helper()
	return create(t, limited(t, garden.Limits{Memory: garden.MemoryLimits{LimitInBytes: memoryLimit}}))
}

func pidLimited(t *testing.T, most uint64) garden.Container {
	t.Helper()
	return create(t, limited(t, garden.Limits{Pid: garden.PidLimits{Max: most}}))
}

// ooms counts the container's events of one sort.
func ooms(t *testing.T, container garden.Container) int {
	t.Helper()
	info, err := container.Info()
	must(t, err)
	count := 0
	for _, event := range info.Events {
		if event == outOfMemory {
			count++
		}
	}
	return count
}

func awaitOoms(t *testing.T, container garden.Container, want int, within time.Duration) {
	t.Helper()
	eventually(t, within, func() error {
		if seen := ooms(t, container); seen != want {
			return fmt.Errorf("%d events of want of memory where %d belong", seen, want)
		}
		return nil
	})
}

// groupsOf are the cgroups of a container on the host, those below included.
func groupsOf(t *testing.T, container garden.Container) []string {
	t.Helper()
	info, err := container.Info()
	must(t, err)
	place := filepath.Base(info.ContainerPath)
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/gardend/*/", "/sys/fs/cgroup/*/gardend/*/"} {
		tops, err := filepath.Glob(pattern + place)
		must(t, err)
		for _, top := range tops {
			must(t, filepath.WalkDir(top, func(path string, entry os.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					found = append(found, path)
				}
				return nil
			}))
		}
	}
	return found
}

func TestLimitsInForce(t *testing.T) {
	behaviour(t, "a container without limits has none in force", func(t *testing.T) {
		container := create(t, spec(t))
		memory, err := container.CurrentMemoryLimits()
		must(t, err)
		cpu, err := container.CurrentCPULimits()
		must(t, err)
		disk, err := container.CurrentDiskLimits()
		must(t, err)
		bandwidth, err := container.CurrentBandwidthLimits()
		must(t, err)
		equal(t, "memory", memory, garden.MemoryLimits{})
		equal(t, "cpu", cpu, garden.CPULimits{})
		equal(t, "disk", disk, garden.DiskLimits{})
		equal(t, "bandwidth", bandwidth, garden.BandwidthLimits{})
		for _, group := range groupsOf(t, container) {
			equal(t, "group without a limit", filepath.Base(group) == "run", false)
		}
	})
	behaviour(t, "the limit of memory in force is the one that was asked for", func(t *testing.T) {
		limit, err := memoryLimited(t).CurrentMemoryLimits()
		must(t, err)
		equal(t, "limit", limit.LimitInBytes, uint64(memoryLimit))
	})
	behaviour(t, "a limit of memory is in force in whole pages, and is read back so", func(t *testing.T) {
		container := create(t, limited(t, garden.Limits{Memory: garden.MemoryLimits{LimitInBytes: memoryLimit + 1}}))
		limit, err := container.CurrentMemoryLimits()
		must(t, err)
		equal(t, "limit", limit.LimitInBytes, uint64(memoryLimit))
	})
	behaviour(t, "an endless limit of memory or of processes is none", func(t *testing.T) {
		most := ^uint64(0)
		container := create(t, limited(t, garden.Limits{
			Memory: garden.MemoryLimits{LimitInBytes: most}, Pid: garden.PidLimits{Max: most},
		}))
		limit, err := container.CurrentMemoryLimits()
		must(t, err)
		equal(t, "limit", limit.LimitInBytes, uint64(0))
		equal(t, "output", sh(t, container, "echo fine"), "fine\n")
	})
	behaviour(t, "a weight of the processor is in force under both of its names", func(t *testing.T) {
		container := create(t, limited(t, garden.Limits{CPU: garden.CPULimits{Weight: 512}}))
		cpu, err := container.CurrentCPULimits()
		must(t, err)
		equal(t, "limits", cpu, garden.CPULimits{Weight: 512, LimitInShares: 512})
	})
	behaviour(t, "shares are the older name of a weight, which wins over them", func(t *testing.T) {
		older := create(t, limited(t, garden.Limits{CPU: garden.CPULimits{LimitInShares: 100}}))
		cpu, err := older.CurrentCPULimits()
		must(t, err)
		equal(t, "limits", cpu.Weight, uint64(100))
		both := create(t, limited(t, garden.Limits{CPU: garden.CPULimits{LimitInShares: 100, Weight: 300}}))
		cpu, err = both.CurrentCPULimits()
		must(t, err)
		equal(t, "limits", cpu.LimitInShares, uint64(300))
	})
	behaviour(t, "shares beyond what the kernel takes come back as what it made of them", func(t *testing.T) {
		container := create(t, limited(t, garden.Limits{CPU: garden.CPULimits{LimitInShares: 1 << 40}}))
		cpu, err := container.CurrentCPULimits()
		must(t, err)
		equal(t, "limits", cpu.LimitInShares, uint64(262144))
	})
	behaviour(t, "processor time is shared by weight while there is too little", func(t *testing.T) {
		light := create(t, limited(t, garden.Limits{CPU: garden.CPULimits{Weight: 64}}))
		for _, group := range groupsOf(t, light) {
			if content, err := os.ReadFile(filepath.Join(group, "cpu.shares")); err == nil {
				equal(t, "cpu.shares", strings.TrimSpace(string(content)), "64")
				return
			}
		}
		for _, group := range groupsOf(t, light) {
			if _, err := os.Stat(filepath.Join(group, "cpu.weight")); err == nil {
				return
			}
		}
		t.Fatal("no group holds the weight")
	})
	behaviour(t, "a scope without a limit of the disk asks for nothing", func(t *testing.T) {
		create(t, limited(t, garden.Limits{Disk: garden.DiskLimits{Scope: garden.DiskLimitScopeExclusive}}))
	})
	behaviour(t, "limits of an unknown container are not found", func(t *testing.T) {
		container := create(t, spec(t))
		must(t, gard.Destroy(container.Handle()))
		_, err := container.CurrentMemoryLimits()
		if !errors.As(err, new(garden.ContainerNotFoundError)) {
			t.Fatalf("got %v", err)
		}
	})
	behaviour(t, "a destroyed container with limits leaves no group", func(t *testing.T) {
		container := create(t, limited(t, garden.Limits{
			Memory: garden.MemoryLimits{LimitInBytes: memoryLimit}, Pid: garden.PidLimits{Max: 20},
		}))
		start(t, container, shell("sleep 1000 & sleep 1000"), garden.ProcessIO{})
		groups := groupsOf(t, container)
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
	behaviour(t, "a missing program in a container with limits is told as in any other", func(t *testing.T) {
		_, err := memoryLimited(t).Run(garden.ProcessSpec{Path: "no-such-program"}, garden.ProcessIO{})
		if !errors.As(err, new(garden.ExecutableNotFoundError)) {
			t.Fatalf("got %v", err)
		}
	})
	behaviour(t, "processes that start at once in a container with limits all run", func(t *testing.T) {
		container := create(t, limited(t, garden.Limits{
			Memory: garden.MemoryLimits{LimitInBytes: 256 * mib}, Pid: garden.PidLimits{Max: 200},
		}))
		var group sync.WaitGroup
		results := make([]string, 30)
		for i := range results {
			group.Go(func() {
				out := newBuffer()
				process, err := container.Run(shell(fmt.Sprintf("echo %d", i)), garden.ProcessIO{Stdout: out})
				if err == nil {
					_, err = waited(process, patience)
				}
				results[i] = fmt.Sprint(out.String(), err)
			})
		}
		group.Wait()
		for i, result := range results {
			equal(t, "result", result, fmt.Sprintf("%d\n<nil>", i))
		}
	})
	behaviour(t, "stopping a container with limits ends all that runs in it", func(t *testing.T) {
		container := memoryLimited(t)
		process := start(t, container, shell("sleep 1000 & wait"), garden.ProcessIO{})
		must(t, container.Stop(true))
		equal(t, "status", wait(t, process), 137)
		equal(t, "afterwards", sh(t, container, "echo fine"), "fine\n")
	})
}

func TestMemoryLimit(t *testing.T) {
	behaviour(t, "it kills the process and not the container", func(t *testing.T) {
		container := memoryLimited(t)
		equal(t, "status", run(t, container, shell("exec "+fillMemory)).status, 137)
		equal(t, "afterwards", sh(t, container, "echo fine"), "fine\n")
		info, err := container.Info()
		must(t, err)
		equal(t, "state", info.State, "active")
	})
	behaviour(t, "less than the limit is enough for less than the limit", func(t *testing.T) {
		container := memoryLimited(t)
		sh(t, container, "dd if=/dev/zero of=/dev/null bs=16M count=1")
		equal(t, "events", ooms(t, container), 0)
	})
	behaviour(t, "pages that outlive their writer do not end the container", func(t *testing.T) {
		container := memoryLimited(t)
		for range 5 {
			equal(t, "status", run(t, container, shell("exec "+fillShm)).status, 137)
		}
		equal(t, "remove", run(t, container, garden.ProcessSpec{Path: "rm", Args: []string{"/dev/shm/full"}}).status, 0)
		equal(t, "afterwards", sh(t, container, "echo fine"), "fine\n")
		info, err := container.Info()
		must(t, err)
		for _, event := range info.Events {
			equal(t, "event", event, outOfMemory)
		}
	})
	behaviour(t, "a limit that is too small for anything kills what is asked for, and says so", func(t *testing.T) {
		container := create(t, limited(t, garden.Limits{Memory: garden.MemoryLimits{LimitInBytes: 4096}}))
		for range 3 {
			// Whether the kernel comes before its start is answered, or after.
			process, err := container.Run(garden.ProcessSpec{Path: "true"}, garden.ProcessIO{})
			if err != nil {
				refused(t, err, "killed before its program began", "memory limit")
				continue
			}
			equal(t, "status", wait(t, process), 137)
		}
		awaitOoms(t, container, 3, 5*time.Second)
		info, err := container.Info()
		must(t, err)
		equal(t, "state", info.State, "active")
	})
	behaviour(t, "it holds a process with a terminal, too", func(t *testing.T) {
		process := shell("exec " + fillMemory)
		process.TTY = &garden.TTYSpec{}
		equal(t, "status", run(t, memoryLimited(t), process).status, 137)
	})
	behaviour(t, "it holds any user", func(t *testing.T) {
		process := shell("exec " + fillMemory)
		process.User = "1000:1000"
		equal(t, "status", run(t, memoryLimited(t), process).status, 137)
	})
	behaviour(t, "it holds a privileged container", func(t *testing.T) {
		asked := privileged(t)
		asked.Limits.Memory.LimitInBytes = memoryLimit
		container := create(t, asked)
		equal(t, "status", run(t, container, shell("exec "+fillMemory)).status, 137)
		equal(t, "afterwards", sh(t, container, "echo fine"), "fine\n")
	})
	behaviour(t, "groups that a privileged container makes for itself are within the limit", func(t *testing.T) {
		if _, err := os.Stat("/sys/fs/cgroup/memory"); err != nil {
			t.Skip("the groups of cgroup v1 are made here")
		}
		asked := privileged(t)
		asked.Limits.Memory.LimitInBytes = memoryLimit
		container := create(t, asked)
		result := run(t, container, shell(`set -e
			own=/sys/fs/cgroup/memory
			mkdir $own/nested
			echo $$ > $own/nested/cgroup.procs
			exec `+fillMemory))
		equal(t, "status", result.status, 137)
		equal(t, "afterwards", sh(t, container, "rmdir /sys/fs/cgroup/memory/nested; echo fine"), "fine\n")
	})
	behaviour(t, "containers do not share a limit", func(t *testing.T) {
		small, other := memoryLimited(t), create(t, spec(t))
		equal(t, "status", run(t, small, shell("exec "+fillMemory)).status, 137)
		equal(t, "status", run(t, other, shell("exec "+fillMemory)).status, 0)
		equal(t, "events", ooms(t, other), 0)
	})
}

func TestOutOfMemory(t *testing.T) {
	behaviour(t, "each kill is an event, there when the process's end is", func(t *testing.T) {
		container := memoryLimited(t)
		for kills := 1; kills <= 4; kills++ {
			run(t, container, shell("exec "+fillMemory))
			equal(t, "events", ooms(t, container), kills)
		}
	})
	behaviour(t, "a child that is killed is told of, though its parent goes on", func(t *testing.T) {
		container := memoryLimited(t)
		process := start(t, container, shell(fillMemory+"; exec sleep 1000"), garden.ProcessIO{})
		awaitOoms(t, container, 1, 5*time.Second)
		must(t, process.Signal(garden.SignalKill))
		wait(t, process)
		equal(t, "events", ooms(t, container), 1)
	})
	behaviour(t, "a parent that hides the end of its child does not hide the kill", func(t *testing.T) {
		container := memoryLimited(t)
		equal(t, "status", run(t, container, shell(fillMemory+"; exit 0")).status, 0)
		equal(t, "events", ooms(t, container), 1)
	})
	behaviour(t, "a process that is killed by somebody else is no event", func(t *testing.T) {
		container := memoryLimited(t)
		equal(t, "status", run(t, container, shell("kill -9 $$")).status, 137)
		equal(t, "events", ooms(t, container), 0)
	})
	behaviour(t, "bulk_info tells in words which process was killed, and by which limit", func(t *testing.T) {
		container := memoryLimited(t)
		killed := shell("exec " + fillMemory)
		killed.ID = "filler"
		run(t, container, killed)
		infos, err := gard.BulkInfo([]string{container.Handle()})
		must(t, err)
		words := infos[container.Handle()].Info.Properties[messageProperty]
		holds(t, words, outOfMemory, fmt.Sprint(memoryLimit), "limit")
		// The kernel names few in a short time; then it is the process that has ended.
		if !strings.Contains(words, "dd (pid ") && !strings.Contains(words, "process 'filler'") {
			t.Fatalf("nobody is named: %s", words)
		}
	})
	behaviour(t, "the words are gardend's own, and a client cannot set them", func(t *testing.T) {
		container := create(t, spec(t))
		refused(t, container.SetProperty(messageProperty, "x"), "can only be read")
		refused(t, container.RemoveProperty(messageProperty), "can only be read")
		asked := spec(t)
		asked.Properties = garden.Properties{"gardend.mine": "x"}
		_, err := gard.Create(asked)
		refused(t, err, "gardend.mine", "can only be read")
		equal(t, "listed", listed(t, asked.Handle), false)
	})
	long(t, "events are kept over a restart, and a kill meanwhile is told once", func(t *testing.T) {
		server, gard := restartable(t)
		asked := limited(t, garden.Limits{Memory: garden.MemoryLimits{LimitInBytes: memoryLimit}})
		container, err := gard().Create(asked)
		must(t, err)
		run(t, container, shell("exec "+fillMemory))
		equal(t, "before", ooms(t, container), 1)
		start(t, container, shell("sleep 1; "+fillMemory+"; exec sleep 1000"), garden.ProcessIO{})
		server.restart(t, 3*time.Second)
		container = on(t, gard(), container)
		awaitOoms(t, container, 2, patience)
		server.restart(t, 0)
		container = on(t, gard(), container)
		time.Sleep(2 * time.Second)
		equal(t, "after two restarts", ooms(t, container), 2)
		run(t, container, shell("exec "+fillMemory))
		equal(t, "and one more kill", ooms(t, container), 3)
		must(t, gard().Destroy(container.Handle()))
	})
}

func TestPidLimit(t *testing.T) {
	behaviour(t, "more processes than the limit cannot be forked", func(t *testing.T) {
		result := run(t, pidLimited(t, 5), shell("for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; echo all"))
		if result.status == 0 && strings.Contains(result.stdout, "all") {
			t.Fatalf("eight processes in five: %+v", result)
		}
		holds(t, result.stderr, "fork")
	})
	behaviour(t, "a container that is full takes one more process that is asked for", func(t *testing.T) {
		container := pidLimited(t, 3)
		start(t, container, shell("sleep 1000 & sleep 1000 & wait"), garden.ProcessIO{})
		eventually(t, patience, func() error {
			metrics, err := container.Metrics()
			if err == nil && metrics.PidStat.Current != 3 {
				err = fmt.Errorf("%d processes", metrics.PidStat.Current)
			}
			return err
		})
		equal(t, "status", run(t, container, garden.ProcessSpec{Path: "true"}).status, 0)
	})
	behaviour(t, "as many as the limit can run", func(t *testing.T) {
		equal(t, "output", sh(t, pidLimited(t, 4), "for i in 1 2 3; do sleep 0.1 & done; wait; echo all"), "all\n")
	})
}

// restarting is a server of the test's own that can be ended and started again.
type restarting struct {
	server  *harness.Server
	options harness.Options
}

func (r *restarting) restart(t *testing.T, pause time.Duration) {
	t.Helper()
	_, err := r.server.Terminate()
	must(t, err)
	time.Sleep(pause)
	r.server, err = harness.Start(r.options)
	must(t, err)
}

// restartable starts it; the client is of whichever runs.
func restartable(t *testing.T) (*restarting, func() client.Client) {
	t.Helper()
	return restartableOn(t)
}

// restartableOn does the same with arguments of its own.
func restartableOn(t *testing.T, arguments ...string) (*restarting, func() client.Client) {
	t.Helper()
	if os.Getenv("GARDEND_ADDRESS") != "" {
		t.Skip("needs a server of its own, and the suite was told to use a given one")
	}
	started, err := harness.Start(harness.Options{Arguments: arguments})
	must(t, err)
	options := harness.Options{Folder: started.Folder, Arguments: arguments}
	restarting := &restarting{server: started, options: options}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server's log ends:\n%s", restarting.server.Log())
		}
		_, err := restarting.server.Terminate()
		must(t, errors.Join(err, restarting.server.TearDown()))
	})
	return restarting, func() client.Client { return clientOf(restarting.server.Address) }
}
