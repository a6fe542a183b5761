package garden_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"code.cloudfoundry.org/garden"

	"github.com/gardend/gardend/tests/go/harness"
)

// kinds runs a behaviour in a container of each kind.
func kinds(t *testing.T, name string, body func(t *testing.T, container garden.Container)) {
	t.Helper()
	behaviour(t, name+", unprivileged", func(t *testing.T) { body(t, create(t, spec(t))) })
	behaviour(t, name+", privileged", func(t *testing.T) { body(t, create(t, privileged(t))) })
}

func TestStreamIn(t *testing.T) {
	kinds(t, "a file arrives with its content, mode, owner and time", func(t *testing.T, container garden.Container) {
		asked := file("some-file", "content\n")
		asked.Mode, asked.Uid, asked.Gid = 0o640, 1001, 2001
		put(t, container, "root", "/to", asked)
		equal(t, "content", sh(t, container, "cat /to/some-file"), "content\n")
		equal(t, "file", stat(t, container, "%a %u %g %Y", "/to/some-file"), "640 1001 2001 1000000000")
	})
	kinds(t, "root unpacks programs that run as their owner, links and pipes", func(t *testing.T, container garden.Container) {
		program := file("program", "#!/bin/sh\n")
		program.Mode, program.Uid = 0o4755, 1001
		fifo := member{tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o622}, ""}
		put(t, container, "", "/to", program, fifo, link(tar.TypeLink, "second", "program"), link(tar.TypeSymlink, "soft", "program"))
		equal(t, "program", stat(t, container, "%a %u %h", "/to/program"), "4755 1001 2")
		equal(t, "pipe", stat(t, container, "%F %a", "/to/pipe"), "fifo 622")
		equal(t, "link", sh(t, container, "readlink /to/soft"), "program\n")
	})
	kinds(t, "another user's files are its own, whatever the stream says", func(t *testing.T, container garden.Container) {
		program := file("program", "x")
		program.Mode, program.Uid, program.Gid = 0o4755, 0, 0
		put(t, container, "alice", "/home/alice/to", program)
		equal(t, "program", stat(t, container, "%a %U %G", "/home/alice/to/program"), "755 alice alice")
	})
	behaviour(t, "missing folders of the destination are made, and are the user's", func(t *testing.T) {
		container := create(t, spec(t))
		put(t, container, "alice", "/new/below/it", file("file", "x"))
		equal(t, "folders", sh(t, container, "stat -c '%U %a' /new /new/below /new/below/it"), "alice 755\nalice 755\nalice 755\n")
		equal(t, "root is root's", stat(t, container, "%U", "/"), "root")
	})
	behaviour(t, "a relative destination begins at the user's home", func(t *testing.T) {
		container := create(t, spec(t))
		put(t, container, "alice", "below", file("file", "alice's"))
		put(t, container, "", "below", file("file", "root's"))
		put(t, container, "alice", "", file("at-home", "x"))
		equal(t, "files", sh(t, container, "cat /home/alice/below/file /root/below/file /home/alice/at-home"), "alice'sroot'sx")
	})
	behaviour(t, "a user may be a number, and be followed by a group", func(t *testing.T) {
		container := create(t, spec(t))
		put(t, container, "4242:2001", "/to", file("file", "x"))
		equal(t, "file", stat(t, container, "%u %g", "/to/file"), "4242 2001")
	})
	behaviour(t, "an unknown user is refused", func(t *testing.T) {
		err := streamIn(create(t, spec(t)), "ghost", "/to", bytes.NewReader(archive(t, file("f", "x"))))
		refused(t, err, "error streaming in: unable to find user ghost: no matching entries in passwd file")
	})
	behaviour(t, "where the user may not write it says so", func(t *testing.T) {
		container := create(t, spec(t))
		err := streamIn(container, "alice", "/etc", bytes.NewReader(archive(t, file("f", "x"))))
		refused(t, err, "error streaming in: ", "Permission denied", "f")
		equal(t, "left", sh(t, container, "ls /etc/f 2>/dev/null || echo nothing"), "nothing\n")
	})
	behaviour(t, "a destination that is a file, or below one, is refused", func(t *testing.T) {
		container := create(t, spec(t))
		stream := archive(t, file("f", "x"))
		refused(t, streamIn(container, "", "/etc/passwd", bytes.NewReader(stream)), "/etc/passwd", "Not a directory")
		refused(t, streamIn(container, "", "/etc/passwd/below", bytes.NewReader(stream)), "Not a directory")
	})
	behaviour(t, "a stopped container takes files", func(t *testing.T) {
		container := create(t, spec(t))
		must(t, container.Stop(true))
		put(t, container, "", "/to", file("f", "x"))
		equal(t, "file", sh(t, container, "cat /to/f"), "x")
	})
	behaviour(t, "a stream that is compressed by gzip is unpacked", func(t *testing.T) {
		container := create(t, spec(t))
		content := strings.Repeat("compressible ", 500_000)
		must(t, streamIn(container, "", "/to", bytes.NewReader(zipped(t, archive(t, file("f", content))))))
		equal(t, "size", stat(t, container, "%s", "/to/f"), fmt.Sprint(len(content)))
	})
	behaviour(t, "gzip of several members is read whole", func(t *testing.T) {
		container := create(t, spec(t))
		stream := archive(t, file("f", strings.Repeat("x", 100_000)), file("last", "there"))
		packed := append(zipped(t, stream[:77_777]), zipped(t, stream[77_777:])...)
		must(t, streamIn(container, "", "/to", bytes.NewReader(packed)))
		equal(t, "last", sh(t, container, "cat /to/last"), "there")
	})
	behaviour(t, "gzip that ends early, or whose sum is wrong, is an error", func(t *testing.T) {
		container := create(t, spec(t))
		packed := zipped(t, archive(t, file("f", strings.Repeat("x", 100_000))))
		refused(t, streamIn(container, "", "/to", bytes.NewReader(packed[:len(packed)-4])), "error streaming in: ", "gzip")
		packed[len(packed)-7] ^= 1
		refused(t, streamIn(container, "", "/to", bytes.NewReader(packed)), "error streaming in: ", "gzip")
	})
	behaviour(t, "what is no tar stream is said to be none", func(t *testing.T) {
		container := create(t, spec(t))
		refused(t, streamIn(container, "", "/to", strings.NewReader("hello")), "error streaming in: this does not look like a tar stream")
		refused(t, streamIn(container, "", "/to", strings.NewReader(strings.Repeat("hello ", 10*mebibyte))), "does not look like a tar stream")
		refused(t, streamIn(container, "", "/to", strings.NewReader("\xfd7zXZ\x00 and so on")), "xz")
	})
	behaviour(t, "an empty stream is an error", func(t *testing.T) {
		refused(t, streamIn(create(t, spec(t)), "", "/to", strings.NewReader("")), "error streaming in: the stream is empty")
	})
	behaviour(t, "a stream of no members makes the destination", func(t *testing.T) {
		container := create(t, spec(t))
		put(t, container, "", "/to")
		equal(t, "there", stat(t, container, "%F", "/to"), "directory")
	})
	behaviour(t, "a stream that ends in the middle is an error, wherever that is", func(t *testing.T) {
		container := create(t, spec(t))
		stream := archive(t, file("f", strings.Repeat("x", 3000)), file("g", "y"))
		for _, end := range []int{100, 700, 1024, 1500, 4000, len(stream) - 1800} {
			refused(t, streamIn(container, "", "/to", bytes.NewReader(stream[:end])), "error streaming in: ")
		}
	})
	behaviour(t, "a header that was damaged is an error, and what came before it stays", func(t *testing.T) {
		container := create(t, spec(t))
		first := archive(t, file("f", "x"))
		stream := append(first[:len(first)-1024], archive(t, file("g", "y"))...)
		stream[len(first)-1024+3] ^= 0xff
		refused(t, streamIn(container, "", "/to", bytes.NewReader(stream)), "error streaming in: ", "checksum")
		equal(t, "files", sh(t, container, "ls /to"), "f\n")
	})
	behaviour(t, "names that are long arrive, in both ways that there are", func(t *testing.T) {
		container := create(t, spec(t))
		for _, format := range []tar.Format{tar.FormatGNU, tar.FormatPAX} {
			long := file(strings.Repeat("folder-with-a-long-name/", 12)+strings.Repeat("n", 200), "deep")
			soft := link(tar.TypeSymlink, "soft", strings.Repeat("t", 300))
			long.Format, soft.Format, long.ModTime, soft.ModTime = format, format, then.Truncate(1e9), then.Truncate(1e9)
			to := fmt.Sprintf("/to-%v", format)
			put(t, container, "", to, long, soft)
			equal(t, "content", sh(t, container, "cat "+to+"/"+long.Name), "deep")
			equal(t, "link", sh(t, container, "readlink "+to+"/soft"), strings.Repeat("t", 300)+"\n")
		}
	})
	behaviour(t, "a file with holes arrives whole and stays small", func(t *testing.T) {
		container := create(t, spec(t))
		folder := folder(t)
		made, err := os.Create(filepath.Join(folder, "holes"))
		must(t, err)
		for _, at := range []int64{0, 50 * mebibyte, 99 * mebibyte} {
			_, err = made.WriteAt([]byte("piece"), at)
			must(t, err)
		}
		must(t, errors.Join(made.Truncate(100*mebibyte), made.Close()))
		for _, way := range [][]string{{"--format=gnu"}, {"--format=pax"}} {
			stream, err := exec.Command("tar", append(way, "-C", folder, "--sparse", "-cf", "-", "holes")...).Output()
			must(t, err)
			must(t, streamIn(container, "", "/to", bytes.NewReader(stream)))
			equal(t, "size", stat(t, container, "%s", "/to/holes"), fmt.Sprint(100*mebibyte))
			equal(t, "piece", sh(t, container, "tail -c +52428801 /to/holes | head -c 5"), "piece")
			equal(t, "blocks", sh(t, container, "test $(du -k /to/holes | cut -f1) -lt 1000 && echo few"), "few\n")
		}
	})
	behaviour(t, "a link to an absolute path stays within the container", func(t *testing.T) {
		container := create(t, spec(t))
		outside := folder(t)
		put(t, container, "", "/to", link(tar.TypeSymlink, "out", outside), link(tar.TypeSymlink, "up", "../../../../../.."))
		sh(t, container, "mkdir -p "+outside)
		put(t, container, "", "/to", file("out/file", "inside"), file("up/top", "inside"))
		equal(t, "in the container", sh(t, container, "cat "+outside+"/file /top"), "insideinside")
		entries, err := os.ReadDir(outside)
		must(t, err)
		equal(t, "files outside", len(entries), 0)
	})
	behaviour(t, "a member whose name climbs is refused", func(t *testing.T) {
		container := create(t, spec(t))
		for _, name := range []string{"../file", "a/../../file"} {
			refused(t, streamIn(container, "", "/tmp/to", bytes.NewReader(archive(t, file(name, "x")))), "error streaming in: ", "'..'")
		}
		equal(t, "left", sh(t, container, "ls /tmp/file 2>/dev/null || echo nothing"), "nothing\n")
	})
	behaviour(t, "devices are refused in an unprivileged container and made in a privileged one", func(t *testing.T) {
		device := member{tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}, ""}
		stream := archive(t, device)
		refused(t, streamIn(create(t, spec(t)), "", "/to", bytes.NewReader(stream)), "error streaming in: ", "Operation not permitted")
		container := create(t, privileged(t))
		must(t, streamIn(container, "", "/to", bytes.NewReader(stream)))
		equal(t, "device", stat(t, container, "%F %t %T", "/to/null"), "character special file 1 3")
	})
	kinds(t, "a program's capabilities arrive, and come out again", func(t *testing.T, container garden.Container) {
		// cap_net_raw, permitted and effective.
		value := "\x01\x00\x00\x02\x00\x20\x00\x00" + strings.Repeat("\x00", 12)
		program := file("program", "x")
		program.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": value, "SCHILY.xattr.user.note": "a=b"}
		put(t, container, "", "/to", program)
		_, out := fetch(t, container, "", "/to/program")
		equal(t, "capability", out["program"].PAXRecords["SCHILY.xattr.security.capability"], value)
		equal(t, "note", out["program"].PAXRecords["SCHILY.xattr.user.note"], "a=b")
	})
	behaviour(t, "what is in the way is replaced, and not written to", func(t *testing.T) {
		container := create(t, spec(t))
		sh(t, container, "mkdir -p /to/empty /to/full/x; echo old >/to/file; ln /to/file /other; echo kept >/kept; ln -s /kept /to/soft")
		put(t, container, "", "/to", file("file", "new"), file("soft", "new"), file("empty", "new"))
		equal(t, "files", sh(t, container, "cat /to/file /to/soft /to/empty /other /kept"), "newnewnewold\nkept\n")
		refused(t, streamIn(container, "", "/to", bytes.NewReader(archive(t, file("full", "x")))), "Directory not empty")
	})
	behaviour(t, "folders get their mode and time when all is in them", func(t *testing.T) {
		container := create(t, spec(t))
		put(t, container, "alice", "/to", dir("closed/", 0o555), file("closed/file", "x"), dir("closed/below/", 0o500), file("closed/below/file", "y"))
		equal(t, "folders", sh(t, container, "stat -c '%a %Y' /to/closed /to/closed/below"), "555 1000000000\n500 1000000000\n")
	})
	behaviour(t, "a folder of another's in the stream is left as it is", func(t *testing.T) {
		container := create(t, spec(t))
		put(t, container, "alice", "/tmp", dir("./", 0o700), file("./f", "x"))
		equal(t, "tmp", stat(t, container, "%a %U", "/tmp"), "1777 root")
		equal(t, "file", stat(t, container, "%U", "/tmp/f"), "alice")
	})
	behaviour(t, "owners that the container cannot have become the user", func(t *testing.T) {
		container := create(t, spec(t))
		foreign := file("f", "x")
		// The host's number of the container's root is the one that the container does not have.
		foreign.Uid, foreign.Gid = harness.MappedRoot, harness.MappedRoot
		put(t, container, "", "/to", foreign)
		equal(t, "owner", stat(t, container, "%U", "/to/f"), "root")
	})
	behaviour(t, "a file that is mounted can be written to", func(t *testing.T) {
		container := create(t, spec(t))
		put(t, container, "", "/etc", file("hosts", "10.0.0.1 elsewhere\n"))
		equal(t, "hosts", sh(t, container, "cat /etc/hosts"), "10.0.0.1 elsewhere\n")
	})
	behaviour(t, "a read-only bind mount takes nothing, and a full file system says that it is", func(t *testing.T) {
		asked := spec(t)
		asked.BindMounts = []garden.BindMount{{SrcPath: folder(t), DstPath: "/ro", Mode: garden.BindMountModeRO}}
		container := create(t, asked)
		refused(t, streamIn(container, "", "/ro", bytes.NewReader(archive(t, file("f", "x")))), "Read-only file system")
		large := io.MultiReader(bytes.NewReader(largeHeader(t, 200*mebibyte)), io.LimitReader(zeros{}, 200*mebibyte+1024))
		refused(t, streamIn(container, "", "/dev/shm", large), "error streaming in: ", "No space left on device")
		sh(t, container, "rm -f /dev/shm/large")
	})
	behaviour(t, "an answer that comes before the body has arrived is read as what it is", func(t *testing.T) {
		container := create(t, spec(t))
		for range 5 {
			large := io.MultiReader(bytes.NewReader(largeHeader(t, 50*mebibyte)), io.LimitReader(zeros{}, 50*mebibyte+1024))
			refused(t, streamIn(container, "ghost", "/to", large), "unable to find user ghost")
		}
		gone := create(t, spec(t))
		must(t, gard.Destroy(gone.Handle()))
		large := io.MultiReader(bytes.NewReader(largeHeader(t, 50*mebibyte)), io.LimitReader(zeros{}, 50*mebibyte+1024))
		err := streamIn(gone, "", "/to", large)
		if !errors.As(err, new(garden.ContainerNotFoundError)) {
			t.Fatalf("got %v", err)
		}
	})
	behaviour(t, "many streams at the same time do not mix", func(t *testing.T) {
		container := create(t, spec(t))
		var group sync.WaitGroup
		errs := make([]error, 12)
		for i := range errs {
			stream := archive(t, file("f", strings.Repeat(fmt.Sprint(i%10), 300_000)), file("g", fmt.Sprint(i)))
			group.Go(func() { errs[i] = streamIn(container, "alice", fmt.Sprintf("/to/%d", i), bytes.NewReader(stream)) })
		}
		group.Wait()
		must(t, errors.Join(errs...))
		for i := range errs {
			equal(t, "others", sh(t, container, fmt.Sprintf("tr -d %d </to/%d/f | wc -c; cat /to/%d/g", i%10, i, i)), fmt.Sprintf("0\n%d", i))
		}
	})
}

// zeros has as many as are asked for.
type zeros struct{}

func (zeros) Read(into []byte) (int, error) {
	clear(into)
	return len(into), nil
}

// largeHeader is the header of a file with the name large.
func largeHeader(t *testing.T, size int64) []byte {
	t.Helper()
	var stream bytes.Buffer
	must(t, tar.NewWriter(&stream).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "large", Mode: 0o644, Size: size}))
	return stream.Bytes()
}
