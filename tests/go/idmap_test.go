package garden_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"

	"github.com/gardend/gardend/tests/go/harness"
)

const usualMap = "0:100000:65536"

func TestIDMap(t *testing.T) {
	// As root of the container sees it, and as the host does.
	owner := func(t *testing.T, path string) uint32 {
		t.Helper()
		info, err := os.Stat(path)
		must(t, err)
		return info.Sys().(*syscall.Stat_t).Uid
	}
	behaviour(t, "users of an unprivileged container are on the host whom the map says", func(t *testing.T) {
		gard := own(t, "--id-map", usualMap, "--default-rootfs", rootfs.Folder())
		shared := folder(t)
		must(t, os.Chmod(shared, 0o777))
		mount := garden.BindMount{SrcPath: shared, DstPath: "/mnt", Mode: garden.BindMountModeRW}
		container := createOn(t, gard, with(garden.ContainerSpec{Handle: unique("m")}, mount))
		seen := strings.Fields(sh(t, container, "cat /proc/self/uid_map /proc/self/gid_map"))
		equal(t, "maps", strings.Join(seen, " "), "0 100000 65536 0 100000 65536")
		equal(t, "the image's owner", sh(t, container, "stat -c %u:%g /bin/busybox"), "0:0\n")
		sh(t, container, "touch /mnt/of-root")
		process := shell("touch /mnt/of-alice")
		process.User = "alice"
		equal(t, "status", run(t, container, process).status, 0)
		equal(t, "root", owner(t, filepath.Join(shared, "of-root")), 100000)
		equal(t, "alice", owner(t, filepath.Join(shared, "of-alice")), 101001)
		put(t, container, "alice", "/mnt", file("streamed", "x"))
		equal(t, "streamed in", owner(t, filepath.Join(shared, "streamed")), 101001)
	})
	behaviour(t, "a privileged container has no map of its own", func(t *testing.T) {
		gard := own(t, "--id-map", usualMap, "--default-rootfs", rootfs.Folder())
		container := createOn(t, gard, garden.ContainerSpec{Handle: unique("m"), Privileged: true})
		equal(t, "map", strings.Join(strings.Fields(sh(t, container, "cat /proc/self/uid_map")), " "), "0 0 4294967295")
	})
	behaviour(t, "a map that makes somebody the host's root is refused", func(t *testing.T) {
		said, err := harness.Refused(harness.Options{Arguments: []string{"--id-map", "0:0:65536"}}, patience)
		must(t, err)
		holds(t, said, "--id-map", "the host's root")
	})
	long(t, "the map cannot be changed below files that were made with it", func(t *testing.T) {
		arguments := []string{"--id-map", usualMap, "--default-rootfs", rootfs.Folder()}
		server, gard := restartableOn(t, arguments...)
		container, err := gard().Create(garden.ContainerSpec{Handle: unique("m")})
		must(t, err)
		_, err = server.server.Terminate()
		must(t, err)
		other := harness.Options{Folder: server.options.Folder, Arguments: []string{"--default-rootfs", rootfs.Folder()}}
		said, err := harness.Refused(other, patience)
		must(t, err)
		holds(t, said, "--id-map "+usualMap, "destroy")
		server.server, err = harness.Start(server.options)
		must(t, err)
		container = on(t, gard(), container)
		equal(t, "afterwards", sh(t, container, "echo fine"), "fine\n")
		must(t, gard().Destroy(container.Handle()))
		eventually(t, patience, func() error {
			left, err := os.ReadDir(filepath.Join(server.server.StateDir(), "layers"))
			if err == nil && len(left) > 0 {
				err = errors.New("a layer is left")
			}
			return err
		})
		server.options = other
		server.restart(t, 10*time.Millisecond)
		container, err = gard().Create(garden.ContainerSpec{Handle: unique("m")})
		must(t, err)
		equal(t, "the default", strings.HasPrefix(strings.Join(strings.Fields(sh(t, container, "cat /proc/self/uid_map")), " "), "0 4294967294 1"), true)
		must(t, gard().Destroy(container.Handle()))
	})
}
