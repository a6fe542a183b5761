package garden_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"code.cloudfoundry.org/garden"
)

// quotas says that the suite's folders are on a file system that keeps project quotas, as scripts/test-v2.sh gives it.
const quotas = "GARDEND_TEST_QUOTAS"

// firstProject is the first number of gardend's own.
const firstProject = 1 << 30

func diskLimited(limits garden.DiskLimits) garden.ContainerSpec {
	return garden.ContainerSpec{Handle: unique("d"), Limits: garden.Limits{Disk: limits}}
}

func exclusive(bytes uint64) garden.DiskLimits {
	return garden.DiskLimits{ByteHard: bytes, Scope: garden.DiskLimitScopeExclusive}
}

func write(file string, mebibytes int) garden.ProcessSpec {
	return shell(fmt.Sprintf("dd if=/dev/zero of=%s bs=1M count=%d", file, mebibytes))
}

// exceeded looks for the kernel's words: XFS has for projects those of a full disk.
func exceeded(t *testing.T, text string) {
	t.Helper()
	words := map[string]string{"ext4": "Disk quota exceeded", "xfs": "No space left on device"}[os.Getenv(quotas)]
	holds(t, text, words)
}

// projects are those of gardend's that have files or limits on the file system of the suite's folders.
func projects(t *testing.T) (found []uint32) {
	t.Helper()
	const (
		quotactlFd   = 443
		getNextQuota = 0x800009<<8 | 2
	)
	folder, err := os.Open(server.StateDir())
	must(t, err)
	defer folder.Close()
	for id := uint32(firstProject); ; id++ {
		var next struct {
			hard, soft, space, inodesHard, inodesSoft, inodes, spaceTime, inodesTime uint64
			valid, id                                                                uint32
		}
		_, _, errno := syscall.Syscall6(quotactlFd, folder.Fd(), getNextQuota, uintptr(id), uintptr(unsafe.Pointer(&next)), 0, 0)
		runtime.KeepAlive(&next)
		if errno == syscall.ENOENT || errno == syscall.ESRCH || errno == 0 && next.id < id {
			return found
		}
		if errno != 0 {
			t.Fatalf("asking for quotas: %v", errno)
		}
		if next.hard|next.soft|next.space|next.inodesHard|next.inodesSoft|next.inodes != 0 {
			found = append(found, next.id)
		}
		id = next.id
	}
}

func TestDiskLimitsThatCannotBeKept(t *testing.T) {
	behaviour(t, "a folder of the node's own is refused as the root of a limited container, by its path", func(t *testing.T) {
		for _, limits := range []garden.DiskLimits{{ByteHard: mib}, {ByteSoft: mib}, {InodeHard: 5}, {InodeSoft: 5}} {
			asked := limited(t, garden.Limits{Disk: limits})
			_, err := gard.Create(asked)
			refused(t, err, "limits.disk_limits", strings.TrimPrefix(asked.Image.URI, "raw://"), "not gardend's to count")
			equal(t, "listed", listed(t, asked.Handle), false)
		}
	})
	behaviour(t, "a file system without quotas is named with what would help", func(t *testing.T) {
		if os.Getenv(quotas) != "" {
			t.Skip("the file system here has them")
		}
		asked := diskLimited(exclusive(mib))
		_, err := gard.Create(asked)
		refused(t, err, "limits.disk_limits", "keeps no project quotas", "pr", "quota")
		equal(t, "listed", listed(t, asked.Handle), false)
	})
}

func TestDiskLimits(t *testing.T) {
	if os.Getenv(quotas) == "" {
		t.Skip("needs a file system with project quotas: scripts/test-v2.sh runs these on one")
	}
	behaviour(t, "more than the limit cannot be written, and the container goes on", func(t *testing.T) {
		container := create(t, diskLimited(exclusive(4*mib)))
		equal(t, "less", run(t, container, write("/tmp/less", 3)).status, 0)
		result := run(t, container, write("/tmp/more", 2))
		equal(t, "status", result.status, 1)
		exceeded(t, result.stderr)
		sh(t, container, "rm /tmp/less /tmp/more")
		equal(t, "after room was made", run(t, container, write("/tmp/again", 3)).status, 0)
	})
	behaviour(t, "a privileged container's root is held to it, too", func(t *testing.T) {
		asked := diskLimited(exclusive(4 * mib))
		asked.Privileged = true
		exceeded(t, run(t, create(t, asked), write("/tmp/more", 8)).stderr)
	})
	behaviour(t, "any user is held to it, anywhere in the root", func(t *testing.T) {
		container := create(t, diskLimited(exclusive(4*mib)))
		sh(t, container, "mkdir -m 777 -p /deep/er/still")
		process := write("/deep/er/still/x", 8)
		process.User = "alice"
		exceeded(t, run(t, container, process).stderr)
	})
	behaviour(t, "the limits in force are those that were asked for", func(t *testing.T) {
		asked := garden.DiskLimits{
			ByteHard: 8 * mib, ByteSoft: 4*mib + 1, InodeHard: 500, InodeSoft: 400, Scope: garden.DiskLimitScopeExclusive,
		}
		seen, err := create(t, diskLimited(asked)).CurrentDiskLimits()
		must(t, err)
		// In whole blocks.
		asked.ByteSoft = 4*mib + map[string]uint64{"ext4": 1024, "xfs": 4096}[os.Getenv(quotas)]
		equal(t, "limits", seen, asked)
	})
	behaviour(t, "in total the image counts, too", func(t *testing.T) {
		container := create(t, diskLimited(garden.DiskLimits{}))
		before, err := container.Metrics()
		must(t, err)
		image := before.DiskStat.TotalBytesUsed - before.DiskStat.ExclusiveBytesUsed
		if image == 0 {
			t.Fatalf("the image takes nothing: %+v", before.DiskStat)
		}
		limit := (image+2*mib)/1024*1024 + 1024
		held := create(t, diskLimited(garden.DiskLimits{ByteHard: limit, Scope: garden.DiskLimitScopeTotal}))
		exceeded(t, run(t, held, write("/tmp/more", 4)).stderr)
		seen, err := held.CurrentDiskLimits()
		must(t, err)
		if seen.ByteHard < limit || seen.ByteHard > limit+4096 {
			t.Errorf("%d bytes are in force where %d were asked for", seen.ByteHard, limit)
		}
	})
	behaviour(t, "a total that the image alone takes is refused with both numbers", func(t *testing.T) {
		asked := diskLimited(garden.DiskLimits{ByteHard: 2048, Scope: garden.DiskLimitScopeTotal})
		_, err := gard.Create(asked)
		refused(t, err, "limits.disk_limits.byte_hard", "2048", "exclusive")
		equal(t, "listed", listed(t, asked.Handle), false)
	})
	behaviour(t, "no more files than the limit can be made", func(t *testing.T) {
		asked := garden.DiskLimits{InodeHard: 40, Scope: garden.DiskLimitScopeExclusive}
		container := create(t, diskLimited(asked))
		result := run(t, container, shell("i=0; while [ $i -lt 60 ]; do touch /tmp/$i || exit 1; i=$((i+1)); done"))
		equal(t, "status", result.status, 1)
		exceeded(t, result.stderr)
	})
	behaviour(t, "files that are streamed in beyond it are an error with the cause", func(t *testing.T) {
		container := create(t, diskLimited(exclusive(4*mib)))
		big := archive(t, file("big", strings.Repeat("x", 8*mib)))
		err := streamIn(container, "root", "/tmp", strings.NewReader(string(big)))
		refused(t, err, "error streaming in", "cannot write to big")
		exceeded(t, err.Error())
	})
	behaviour(t, "containers do not share a limit", func(t *testing.T) {
		one, two := create(t, diskLimited(exclusive(4*mib))), create(t, diskLimited(exclusive(4*mib)))
		for _, container := range []garden.Container{one, two} {
			equal(t, "status", run(t, container, write("/tmp/x", 3)).status, 0)
		}
	})
	behaviour(t, "what is used is counted as it is written, with or without a limit", func(t *testing.T) {
		container := create(t, diskLimited(garden.DiskLimits{}))
		before, err := container.Metrics()
		must(t, err)
		equal(t, "status", run(t, container, write("/x", 5)).status, 0)
		sh(t, container, "sync")
		after, err := container.Metrics()
		must(t, err)
		if more := after.DiskStat.ExclusiveBytesUsed - before.DiskStat.ExclusiveBytesUsed; more < 5*mib || more > 6*mib {
			t.Errorf("5 MiB are counted as %d bytes", more)
		}
		equal(t, "inodes", after.DiskStat.ExclusiveInodesUsed-before.DiskStat.ExclusiveInodesUsed, uint64(1))
	})
	// Alone: it counts the projects of all containers there are.
	t.Run("a destroyed container leaves no project behind", func(t *testing.T) {
		container := create(t, diskLimited(exclusive(4*mib)))
		equal(t, "status", run(t, container, write("/tmp/x", 1)).status, 0)
		before := projects(t)
		equal(t, "there are projects", len(before) > 0, true)
		must(t, gard.Destroy(container.Handle()))
		eventually(t, patience, func() error {
			if left := projects(t); len(left) >= len(before) {
				return fmt.Errorf("%v are left of %v", left, before)
			}
			return nil
		})
	})
	behaviour(t, "a restart of gardend keeps the limit", func(t *testing.T) {
		server, gard := restartableOn(t, "--default-rootfs", rootfs.Folder())
		container, err := gard().Create(diskLimited(exclusive(4 * mib)))
		must(t, err)
		server.restart(t, 0)
		container = on(t, gard(), container)
		seen, err := container.CurrentDiskLimits()
		must(t, err)
		equal(t, "limits", seen, exclusive(4*mib))
		exceeded(t, run(t, container, write("/tmp/more", 8)).stderr)
		must(t, gard().Destroy(container.Handle()))
	})
}
