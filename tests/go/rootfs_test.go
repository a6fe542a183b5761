package garden_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"code.cloudfoundry.org/garden"

	"github.com/gardend/gardend/tests/go/harness"
)

func TestRootfs(t *testing.T) {
	behaviour(t, "a folder of the host is the root as it is, and what is written there is on the host", func(t *testing.T) {
		asked := spec(t)
		path := strings.TrimPrefix(asked.Image.URI, "raw://")
		must(t, os.WriteFile(filepath.Join(path, "from-host"), []byte("hello"), 0o644))
		container := create(t, asked)
		equal(t, "read inside", sh(t, container, "cat /from-host; echo inside >/from-container"), "hello")
		content, err := os.ReadFile(filepath.Join(path, "from-container"))
		must(t, err)
		equal(t, "read on the host", string(content), "inside\n")
		must(t, gard.Destroy(container.Handle()))
		_, err = os.Stat(filepath.Join(path, "from-container"))
		must(t, err)
	})
	behaviour(t, "a plain path is a folder of the host too", func(t *testing.T) {
		path := root(t, false)
		must(t, os.WriteFile(filepath.Join(path, "mark"), []byte("plain"), 0o644))
		container := create(t, garden.ContainerSpec{Handle: unique("c"), RootFSPath: path})
		equal(t, "mark", sh(t, container, "cat /mark"), "plain")
	})
	behaviour(t, "the image wins over the older rootfs field", func(t *testing.T) {
		asked := spec(t)
		asked.RootFSPath = "/does/not/exist"
		create(t, asked)
	})
	behaviour(t, "a rootfs that is missing is refused by its name, and nothing is made", func(t *testing.T) {
		for _, prefix := range []string{"", "raw://"} {
			handle, path := unique("c"), filepath.Join(folder(t), "missing")
			_, err := gard.Create(garden.ContainerSpec{Handle: handle, Image: garden.ImageRef{URI: prefix + path}})
			refused(t, err, path)
			equal(t, "listed", listed(t, handle), false)
			again := spec(t)
			again.Handle = handle
			create(t, again)
		}
	})
	behaviour(t, "a rootfs that is a file is refused", func(t *testing.T) {
		path := filepath.Join(folder(t), "file")
		must(t, os.WriteFile(path, nil, 0o644))
		_, err := gard.Create(garden.ContainerSpec{Handle: unique("c"), Image: garden.ImageRef{URI: "raw://" + path}})
		refused(t, err, path)
	})
	behaviour(t, "a relative rootfs is refused", func(t *testing.T) {
		_, err := gard.Create(garden.ContainerSpec{Handle: unique("c"), RootFSPath: "relative/folder"})
		refused(t, err, "relative/folder")
	})
	behaviour(t, "a scheme that gardend does not know is refused by its name", func(t *testing.T) {
		_, err := gard.Create(garden.ContainerSpec{Handle: unique("c"), RootFSPath: "gopher://host/x"})
		refused(t, err, "gopher")
	})
	behaviour(t, "a root without proc, dev and sys gets them", func(t *testing.T) {
		asked := spec(t)
		path := strings.TrimPrefix(asked.Image.URI, "raw://")
		for _, name := range []string{"proc", "dev", "sys"} {
			must(t, os.Remove(filepath.Join(path, name)))
		}
		container := create(t, asked)
		sh(t, container, "test -d /proc/self && test -c /dev/null && test -d /sys/kernel")
	})
	behaviour(t, "a root whose proc is a link to elsewhere misleads nobody on the host", func(t *testing.T) {
		asked := spec(t)
		path := strings.TrimPrefix(asked.Image.URI, "raw://")
		outside := folder(t)
		must(t, os.Remove(filepath.Join(path, "proc")))
		must(t, os.Symlink(outside, filepath.Join(path, "proc")))
		if container, err := gard.Create(asked); err == nil {
			destroyOn(t, gard, container.Handle())
		}
		entries, err := os.ReadDir(outside)
		must(t, err)
		equal(t, "files that appeared outside", len(entries), 0)
		equal(t, "mounts outside", len(harness.MountsBelow(outside)), 0)
	})
	behaviour(t, "one folder can be the root of several containers", func(t *testing.T) {
		asked := spec(t)
		first := create(t, asked)
		asked.Handle = unique("c")
		second := create(t, asked)
		sh(t, first, "echo shared >/mark")
		equal(t, "mark", sh(t, second, "cat /mark"), "shared\n")
	})
	behaviour(t, "the default rootfs is each container's own to change", func(t *testing.T) {
		needsOwnServer(t)
		for _, privileged := range []bool{false, true} {
			first := create(t, garden.ContainerSpec{Handle: unique("c"), Privileged: privileged})
			second := create(t, garden.ContainerSpec{Handle: unique("c"), Privileged: privileged})
			sh(t, first, "echo mine >/mark; rm /bin/uuencode; echo more >>/etc/group; id | grep -q uid=0")
			equal(t, "seen by the other", sh(t, second, "ls /mark 2>&1; ls /bin/uuencode"), "ls: /mark: No such file or directory\n/bin/uuencode\n")
			equal(t, "who owns it", sh(t, second, "stat -c %u:%g /bin /etc/passwd | sort -u"), "0:0\n")
		}
		if _, err := os.Stat(filepath.Join(rootfs.Folder(), "mark")); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("the default rootfs itself was changed: %v", err)
		}
	})
	behaviour(t, "nothing stays of what a container wrote on the default rootfs", func(t *testing.T) {
		needsOwnServer(t)
		asked := garden.ContainerSpec{Handle: unique("c")}
		sh(t, create(t, asked), "echo mine >/mark")
		must(t, gard.Destroy(asked.Handle))
		equal(t, "mark", sh(t, create(t, asked), "ls /mark 2>/dev/null || echo none"), "none\n")
	})
	behaviour(t, "the default rootfs can be a tar, and without one a container must name its rootfs", func(t *testing.T) {
		tar := filepath.Join(folder(t), "rootfs.tar")
		output, err := exec.Command("tar", "-C", rootfs.Folder(), "-cf", tar, ".").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, output)
		}
		with := own(t, "--default-rootfs", tar, "--pool-size", "0")
		container := createOn(t, with, garden.ContainerSpec{Handle: "c"})
		equal(t, "output", sh(t, container, "id -un alice"), "alice\n")

		without := own(t, "--pool-size", "0")
		_, err = without.Create(garden.ContainerSpec{Handle: "c"})
		refused(t, err, "default")
	})
}

// needsOwnServer skips what only a server that the suite started and configured can show.
func needsOwnServer(t *testing.T) {
	t.Helper()
	if server.Folder == "" {
		t.Skip("the suite was told to use a given server, whose configuration is not known")
	}
}
