package garden_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"code.cloudfoundry.org/garden"

	"github.com/gardend/gardend/tests/go/harness"
)

// source is a folder of the host, with one file, that everybody may read and write.
func source(t *testing.T) string {
	t.Helper()
	path := folder(t)
	must(t, os.Chmod(path, 0o777))
	must(t, os.WriteFile(filepath.Join(path, "file"), []byte("content"), 0o644))
	return path
}

func with(asked garden.ContainerSpec, mounts ...garden.BindMount) garden.ContainerSpec {
	asked.BindMounts = mounts
	return asked
}

func TestBindMounts(t *testing.T) {
	behaviour(t, "a read-only mount can be read and not written", func(t *testing.T) {
		from := source(t)
		container := create(t, with(spec(t), garden.BindMount{SrcPath: from, DstPath: "/mnt/in"}))
		equal(t, "content", sh(t, container, "cat /mnt/in/file"), "content")
		result := run(t, container, shell("touch /mnt/in/new"))
		holds(t, result.stderr, "Read-only file system")
	})
	behaviour(t, "a read-only mount is read-only for a privileged container too", func(t *testing.T) {
		from := source(t)
		container := create(t, with(privileged(t), garden.BindMount{SrcPath: from, DstPath: "/mnt/in"}))
		holds(t, run(t, container, shell("touch /mnt/in/new")).stderr, "Read-only file system")
	})
	behaviour(t, "a read-write mount shows on the host what was written", func(t *testing.T) {
		from := source(t)
		container := create(t, with(spec(t), garden.BindMount{SrcPath: from, DstPath: "/mnt/in", Mode: garden.BindMountModeRW}))
		sh(t, container, "echo written >/mnt/in/new")
		content, err := os.ReadFile(filepath.Join(from, "new"))
		must(t, err)
		equal(t, "on the host", string(content), "written\n")
	})
	behaviour(t, "a file can be mounted", func(t *testing.T) {
		from := filepath.Join(source(t), "file")
		container := create(t, with(spec(t), garden.BindMount{SrcPath: from, DstPath: "/etc/deep/er/one.conf"}))
		equal(t, "content", sh(t, container, "cat /etc/deep/er/one.conf"), "content")
	})
	behaviour(t, "a mount covers what the root has at its place", func(t *testing.T) {
		from := source(t)
		container := create(t, with(spec(t),
			garden.BindMount{SrcPath: from, DstPath: "/home"},
			garden.BindMount{SrcPath: filepath.Join(from, "file"), DstPath: "/etc/group"},
		))
		equal(t, "files", sh(t, container, "ls /home; cat /etc/group"), "file\ncontent")
	})
	behaviour(t, "a later mount may lie within an earlier one", func(t *testing.T) {
		outer, inner := source(t), source(t)
		must(t, os.WriteFile(filepath.Join(inner, "file"), []byte("inner"), 0o644))
		container := create(t, with(spec(t),
			garden.BindMount{SrcPath: outer, DstPath: "/mnt", Mode: garden.BindMountModeRW},
			garden.BindMount{SrcPath: inner, DstPath: "/mnt/within"},
		))
		equal(t, "content", sh(t, container, "cat /mnt/within/file"), "inner")
	})
	behaviour(t, "missing targets are made, as deep as they lie, and belong to the container's root", func(t *testing.T) {
		container := create(t, with(spec(t), garden.BindMount{SrcPath: source(t), DstPath: "/a/b/c"}))
		equal(t, "owners", sh(t, container, "stat -c %u:%g /a /a/b"), "0:0\n0:0\n")
	})
	behaviour(t, "a source that is missing is refused by its name, and nothing is made", func(t *testing.T) {
		missing := filepath.Join(folder(t), "missing")
		asked := with(spec(t), garden.BindMount{SrcPath: missing, DstPath: "/mnt"})
		_, err := gard.Create(asked)
		refused(t, err, missing)
		equal(t, "listed", listed(t, asked.Handle), false)
	})
	behaviour(t, "read-only reaches the mounts below the source", func(t *testing.T) {
		from := source(t)
		below := filepath.Join(from, "below")
		must(t, os.Mkdir(below, 0o777))
		must(t, unix.Mount("tmpfs", below, "tmpfs", 0, "mode=0777,size=64k"))
		t.Cleanup(func() { must(t, unix.Unmount(below, unix.MNT_DETACH)) })
		must(t, os.WriteFile(filepath.Join(below, "seen"), []byte("deep"), 0o644))
		container := create(t, with(privileged(t), garden.BindMount{SrcPath: from, DstPath: "/mnt"}))
		equal(t, "content", sh(t, container, "cat /mnt/below/seen"), "deep")
		holds(t, run(t, container, shell("touch /mnt/below/new")).stderr, "Read-only file system")
	})
	behaviour(t, "a source whose mount is shared gets nothing back from the container", func(t *testing.T) {
		from := source(t)
		must(t, unix.Mount(from, from, "", unix.MS_BIND, ""))
		t.Cleanup(func() { must(t, unix.Unmount(from, unix.MNT_DETACH)) })
		must(t, unix.Mount("", from, "", unix.MS_SHARED, ""))
		asked := with(privileged(t), garden.BindMount{SrcPath: from, DstPath: "/mnt", Mode: garden.BindMountModeRW})
		container := create(t, asked)
		sh(t, container, "mkdir -p /mnt/new && mount -t tmpfs tmpfs /mnt/new && mount | grep -q /mnt/new")
		equal(t, "mounts on the host", strings.Join(harness.MountsBelow(from), " "), from)
	})
	behaviour(t, "a root whose mount is shared makes a container and leaks nothing", func(t *testing.T) {
		asked := spec(t)
		path := strings.TrimPrefix(asked.Image.URI, "raw://")
		must(t, unix.Mount(path, path, "", unix.MS_BIND, ""))
		t.Cleanup(func() { must(t, unix.Unmount(path, unix.MNT_DETACH)) })
		must(t, unix.Mount("", path, "", unix.MS_SHARED, ""))
		asked.BindMounts = []garden.BindMount{{SrcPath: source(t), DstPath: "/mnt/in"}}
		container := create(t, asked)
		equal(t, "content", sh(t, container, "cat /mnt/in/file"), "content")
		equal(t, "mounts on the host", strings.Join(harness.MountsBelow(path), " "), path)
	})
	behaviour(t, "sources and root are free as soon as destroy has answered", func(t *testing.T) {
		from, volume := source(t), filepath.Join(folder(t), "volume")
		must(t, os.Mkdir(volume, 0o755))
		must(t, unix.Mount("tmpfs", volume, "tmpfs", 0, "size=16m"))
		mounted := true
		t.Cleanup(func() {
			if mounted {
				must(t, unix.Unmount(volume, unix.MNT_DETACH))
			}
		})
		must(t, rootfs.Copy(filepath.Join(volume, "root"), harness.MappedRoot))
		container := create(t, with(
			garden.ContainerSpec{Handle: unique("c"), RootFSPath: filepath.Join(volume, "root")},
			garden.BindMount{SrcPath: from, DstPath: "/mnt", Mode: garden.BindMountModeRW},
		))
		start(t, container, shell("cd /mnt; exec 3>/open; sleep 1000"), garden.ProcessIO{})
		must(t, gard.Destroy(container.Handle()))
		// A file system in use anywhere would be busy.
		must(t, unix.Unmount(volume, 0))
		mounted = false
		must(t, os.RemoveAll(from))
		must(t, os.Mkdir(from, 0o755))
	})
}
