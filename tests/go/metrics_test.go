package garden_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"
)

func metricsOf(t *testing.T, container garden.Container) garden.Metrics {
	t.Helper()
	metrics, err := container.Metrics()
	must(t, err)
	return metrics
}

// within fails unless a figure is within bounds.
func within(t *testing.T, what string, got, least, most uint64) {
	t.Helper()
	if got < least || got > most {
		t.Fatalf("%s: %d is not within %d and %d", what, got, least, most)
	}
}

func TestMetrics(t *testing.T) {
	behaviour(t, "memory that a process holds counts towards a limit, with or without one", func(t *testing.T) {
		for _, container := range []garden.Container{create(t, spec(t)), memoryLimited(t)} {
			before := metricsOf(t, container).MemoryStat.TotalUsageTowardLimit
			sh(t, container, "dd if=/dev/zero of=/dev/shm/held bs=1M count=16")
			after := metricsOf(t, container).MemoryStat.TotalUsageTowardLimit
			within(t, "16 MiB more", after-before, 15*mib, 20*mib)
		}
	})
	behaviour(t, "the kernel's own figures of memory are there, of the whole container", func(t *testing.T) {
		for _, container := range []garden.Container{create(t, spec(t)), memoryLimited(t)} {
			start(t, container, shell("x=$(head -c 8000000 /dev/zero | tr '\\0' x); echo ready; exec sleep 1000"), garden.ProcessIO{})
			sh(t, container, "dd if=/dev/zero of=/dev/shm/held bs=1M count=4")
			// What happens in children reaches their parent's totals within 2 s, when few pages changed hands.
			var stat garden.ContainerMemoryStat
			eventually(t, patience, func() error {
				stat = metricsOf(t, container).MemoryStat
				if stat.TotalRss == 0 && stat.Anon == 0 {
					return fmt.Errorf("nobody holds memory: %+v", stat)
				}
				if stat.TotalCache < 4*mib && stat.File < 4*mib {
					return fmt.Errorf("no pages of files: %+v", stat)
				}
				return nil
			})
			within(t, "page faults", stat.Pgfault, 1, 1<<40)
		}
	})
	behaviour(t, "the limit of memory is among the figures", func(t *testing.T) {
		stat := metricsOf(t, memoryLimited(t)).MemoryStat
		if _, err := os.Stat("/sys/fs/cgroup/memory"); err != nil {
			t.Skip("cgroup v2 has no such figure")
		}
		equal(t, "limit", stat.HierarchicalMemoryLimit, uint64(memoryLimit))
		equal(t, "with swap", stat.HierarchicalMemswLimit, uint64(memoryLimit))
	})
	behaviour(t, "processor time is counted, of user and system", func(t *testing.T) {
		container := create(t, spec(t))
		before := metricsOf(t, container).CPUStat
		begin := time.Now()
		sh(t, container, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
		took := uint64(time.Since(begin))
		after := metricsOf(t, container).CPUStat
		within(t, "time", after.Usage-before.Usage, uint64(5*time.Millisecond), took*4+uint64(time.Second))
		// Both parts are counted by the kernel's ticks, of which a short time holds few.
		most := 2*after.Usage + uint64(200*time.Millisecond)
		within(t, "user's part", after.User-before.User, 1, most)
		within(t, "both parts", after.User+after.System, after.Usage/4, most)
	})
	behaviour(t, "processes are counted without init, with threads and the limit", func(t *testing.T) {
		container := pidLimited(t, 50)
		equal(t, "none", metricsOf(t, container).PidStat, garden.ContainerPidStat{Current: 0, Max: 50})
		start(t, container, shell("sleep 1000 & exec sleep 1000"), garden.ProcessIO{})
		eventually(t, patience, func() error {
			if seen := metricsOf(t, container).PidStat; seen != (garden.ContainerPidStat{Current: 2, Max: 50}) {
				return fmt.Errorf("%+v", seen)
			}
			return nil
		})
		unlimited := create(t, spec(t))
		start(t, unlimited, shell("exec sleep 1000"), garden.ProcessIO{})
		equal(t, "without a limit", metricsOf(t, unlimited).PidStat, garden.ContainerPidStat{Current: 1})
	})
	behaviour(t, "files that a container has written are its own part of the disk", func(t *testing.T) {
		container := create(t, garden.ContainerSpec{Handle: unique("d")})
		before := metricsOf(t, container).DiskStat
		sh(t, container, "dd if=/dev/zero of=/big bs=1M count=8; mkdir /d; for i in 1 2 3 4; do echo > /d/$i; done; sync")
		var after garden.ContainerDiskStat
		eventually(t, patience, func() error {
			after = metricsOf(t, container).DiskStat
			if after.ExclusiveInodesUsed == before.ExclusiveInodesUsed {
				return errors.New("nothing has changed")
			}
			return nil
		})
		within(t, "bytes", after.ExclusiveBytesUsed-before.ExclusiveBytesUsed, 8*mib, 9*mib)
		equal(t, "files", after.ExclusiveInodesUsed-before.ExclusiveInodesUsed, uint64(6))
		within(t, "with the image", after.TotalBytesUsed, after.ExclusiveBytesUsed+mib/2, 1<<40)
		within(t, "files with the image", after.TotalInodesUsed, after.ExclusiveInodesUsed+10, 1<<40)
	})
	behaviour(t, "a folder that is a root is all the container's own", func(t *testing.T) {
		disk := metricsOf(t, create(t, spec(t))).DiskStat
		within(t, "bytes", disk.ExclusiveBytesUsed, mib/2, 1<<40)
		equal(t, "total", disk.TotalBytesUsed, disk.ExclusiveBytesUsed)
		equal(t, "files", disk.TotalInodesUsed, disk.ExclusiveInodesUsed)
	})
	behaviour(t, "a container grows older", func(t *testing.T) {
		begin := time.Now()
		container := create(t, spec(t))
		first := metricsOf(t, container).Age
		time.Sleep(20 * time.Millisecond)
		second := metricsOf(t, container).Age
		within(t, "age", uint64(second-first), uint64(20*time.Millisecond), uint64(time.Since(begin)))
		within(t, "age", uint64(second), 1, uint64(time.Since(begin)+time.Second))
	})
	behaviour(t, "the entitlement to processor time goes by shares and age", func(t *testing.T) {
		equal(t, "without shares", metricsOf(t, create(t, spec(t))).CPUEntitlement, uint64(0))
		one := create(t, limited(t, garden.Limits{CPU: garden.CPULimits{Weight: 100}}))
		ten := create(t, limited(t, garden.Limits{CPU: garden.CPULimits{Weight: 1000}}))
		share := func(container garden.Container) float64 {
			metrics := metricsOf(t, container)
			return float64(metrics.CPUEntitlement) / float64(metrics.Age)
		}
		if ratio := share(ten) / share(one); ratio < 9.9 || ratio > 10.1 {
			t.Fatalf("ten times the shares are worth %f times", ratio)
		}
	})
	behaviour(t, "a stopped container has figures", func(t *testing.T) {
		container := create(t, spec(t))
		start(t, container, shell("exec sleep 1000"), garden.ProcessIO{})
		must(t, container.Stop(true))
		equal(t, "processes", metricsOf(t, container).PidStat.Current, uint64(0))
	})
	behaviour(t, "figures of an unknown container are not found", func(t *testing.T) {
		container := create(t, spec(t))
		must(t, gard.Destroy(container.Handle()))
		_, err := container.Metrics()
		if !errors.As(err, new(garden.ContainerNotFoundError)) {
			t.Fatalf("got %v", err)
		}
	})
	behaviour(t, "bulk_metrics has an entry for each, and an unknown one's is its error", func(t *testing.T) {
		one, two := create(t, spec(t)), memoryLimited(t)
		entries, err := gard.BulkMetrics([]string{one.Handle(), "nobody", two.Handle()})
		must(t, err)
		equal(t, "entries", len(entries), 3)
		for _, container := range []garden.Container{one, two} {
			entry := entries[container.Handle()]
			if entry.Err != nil || entry.Metrics.Age == 0 || entry.Metrics.CPUStat.Usage == 0 {
				t.Fatalf("%+v", entry)
			}
		}
		if entries["nobody"].Err == nil {
			t.Fatal("figures of nobody")
		}
		holds(t, entries["nobody"].Err.Error(), "unknown handle: nobody")
	})
	behaviour(t, "bulk_metrics of nobody is empty", func(t *testing.T) {
		entries, err := gard.BulkMetrics(nil)
		must(t, err)
		equal(t, "entries", len(entries), 0)
	})
	behaviour(t, "a container that goes away in between harms no other's figures", func(t *testing.T) {
		stays := create(t, spec(t))
		var group sync.WaitGroup
		handles := []string{stays.Handle()}
		for range 4 {
			container := create(t, spec(t))
			handles = append(handles, container.Handle())
			group.Go(func() { _ = gard.Destroy(container.Handle()) })
		}
		for range 50 {
			entries, err := gard.BulkMetrics(handles)
			must(t, err)
			equal(t, "entries", len(entries), len(handles))
			for handle, entry := range entries {
				if handle == stays.Handle() && entry.Err != nil {
					t.Fatalf("the one that stays: %v", entry.Err)
				}
				if entry.Err != nil {
					message := entry.Err.Error()
					if !strings.Contains(message, "unknown handle") && !strings.Contains(message, "being destroyed") {
						t.Fatalf("%s: %s", handle, message)
					}
				}
			}
		}
		group.Wait()
	})
}

func TestCapacity(t *testing.T) {
	behaviour(t, "memory is the machine's, or what containers may have of it", func(t *testing.T) {
		capacity, err := gard.Capacity()
		must(t, err)
		content, err := os.ReadFile("/proc/meminfo")
		must(t, err)
		var kibibytes uint64
		_, err = fmt.Sscanf(string(content), "MemTotal: %d kB", &kibibytes)
		must(t, err)
		equal(t, "memory", capacity.MemoryInBytes, kibibytes<<10)
	})
	behaviour(t, "disk is that of the state folder, less what is root's alone", func(t *testing.T) {
		if server.Folder == "" {
			t.Skip("the server's folders are not known")
		}
		var disk syscall.Statfs_t
		must(t, syscall.Statfs(server.StateDir(), &disk))
		capacity, err := gard.Capacity()
		must(t, err)
		block := uint64(disk.Frsize)
		equal(t, "disk", capacity.DiskInBytes, disk.Blocks*block)
		schedulable := (disk.Blocks - (disk.Bfree - disk.Bavail)) * block
		// What is reserved may change by a little while others write.
		within(t, "schedulable", capacity.SchedulableDiskInBytes, schedulable-64*mib, schedulable+64*mib)
		equal(t, "containers", capacity.MaxContainers, uint64(100))
	})
}
