package garden_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"code.cloudfoundry.org/garden"
)

func TestStreamOut(t *testing.T) {
	sorted := func(names []string) string {
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	made := func(t *testing.T, container garden.Container) {
		sh(t, container, "mkdir -p /tmp/d/sub; echo one >/tmp/d/file; echo two >/tmp/d/sub/file; ln -s d /tmp/link")
	}
	kinds(t, "a folder comes by its name, with all that is in it", func(t *testing.T, container garden.Container) {
		made(t, container)
		names, out := fetch(t, container, "", "/tmp/d")
		equal(t, "names", sorted(names), "d/ d/file d/sub/ d/sub/file")
		equal(t, "contents", out["d/file"].content+out["d/sub/file"].content, "one\ntwo\n")
	})
	behaviour(t, "with a slash at its end only the contents come", func(t *testing.T) {
		container := create(t, spec(t))
		made(t, container)
		names, _ := fetch(t, container, "", "/tmp/d/")
		equal(t, "names", sorted(names), "./ ./file ./sub/ ./sub/file")
	})
	behaviour(t, "a file comes by its name alone", func(t *testing.T) {
		container := create(t, spec(t))
		made(t, container)
		names, out := fetch(t, container, "", "/tmp/d/sub/file")
		equal(t, "names", sorted(names), "file")
		equal(t, "content", out["file"].content, "two\n")
	})
	behaviour(t, "an empty folder and an empty file come", func(t *testing.T) {
		container := create(t, spec(t))
		sh(t, container, "mkdir -p /tmp/d/empty; : >/tmp/d/file")
		names, out := fetch(t, container, "", "/tmp/d")
		equal(t, "names", sorted(names), "d/ d/empty/ d/file")
		equal(t, "size", out["d/file"].Size, 0)
		names, _ = fetch(t, container, "", "/tmp/d/empty/")
		equal(t, "contents", sorted(names), "./")
	})
	behaviour(t, "a link comes as a link, and with a slash as where it leads", func(t *testing.T) {
		container := create(t, spec(t))
		made(t, container)
		names, out := fetch(t, container, "", "/tmp/link")
		equal(t, "names", sorted(names), "link")
		equal(t, "link", out["link"].Linkname, "d")
		names, _ = fetch(t, container, "", "/tmp/link/")
		equal(t, "names", sorted(names), "./ ./file ./sub/ ./sub/file")
	})
	behaviour(t, "a relative source begins at the user's home, and none is the home", func(t *testing.T) {
		container := create(t, spec(t))
		sh(t, container, "echo a >/home/alice/file; echo r >/root/file")
		_, out := fetch(t, container, "alice", "file")
		equal(t, "alice's", out["file"].content, "a\n")
		_, out = fetch(t, container, "", "./file")
		equal(t, "root's", out["file"].content, "r\n")
		names, _ := fetch(t, container, "alice", "")
		equal(t, "names", sorted(names), "./ ./file")
	})
	behaviour(t, "what is not there is an error before any byte", func(t *testing.T) {
		container := create(t, spec(t))
		for _, path := range []string{"/missing", "/missing/file", "/tmp/missing/", "missing", "/etc/passwd/"} {
			stream, err := container.StreamOut(garden.StreamOutSpec{Path: path})
			if err == nil {
				stream.Close()
			}
			refused(t, err, "error streaming out: ", path)
		}
	})
	behaviour(t, "an unknown user is refused", func(t *testing.T) {
		_, err := get(create(t, spec(t)), "ghost", "/etc/passwd")
		refused(t, err, "error streaming out: unable to find user ghost: no matching entries in passwd file")
	})
	behaviour(t, "what the user may not read is refused before any byte", func(t *testing.T) {
		container := create(t, spec(t))
		sh(t, container, "echo x >/tmp/secret; chmod 600 /tmp/secret; echo x >/root/file")
		for _, path := range []string{"/tmp/secret", "/root/", "/root/file"} {
			stream, err := container.StreamOut(garden.StreamOutSpec{Path: path, User: "alice"})
			if err == nil {
				stream.Close()
			}
			refused(t, err, "error streaming out: ", "Permission denied")
		}
	})
	behaviour(t, "a file in the middle that the user may not read cuts the stream", func(t *testing.T) {
		container := create(t, spec(t))
		sh(t, container, "mkdir /tmp/d; for i in $(seq 2000); do echo $i >/tmp/d/$i; done; chmod 600 /tmp/d/*7")
		stream, err := get(container, "alice", "/tmp/d")
		if err == nil {
			t.Fatalf("%d bytes came and a clean end", len(stream))
		}
	})
	behaviour(t, "several names of one file stay that", func(t *testing.T) {
		container := create(t, spec(t))
		sh(t, container, "mkdir /tmp/d; echo content >/tmp/d/a; ln /tmp/d/a /tmp/d/b; ln /tmp/d/a /tmp/d/c")
		names, out := fetch(t, container, "", "/tmp/d")
		links, files := 0, 0
		for _, name := range names {
			switch out[name].Typeflag {
			case tar.TypeLink:
				links++
				equal(t, "first", out[out[name].Linkname].content, "content\n")
			case tar.TypeReg:
				files++
			}
		}
		equal(t, "files and links", fmt.Sprint(files, links), "1 2")
	})
	kinds(t, "owners are numbers as the container sees them, modes and times are whole", func(t *testing.T, container garden.Container) {
		sh(t, container, "echo x >/tmp/r; echo x >/tmp/a; chown alice:staff /tmp/a; chmod 6750 /tmp/a; touch -d @1000000000 /tmp/a")
		_, out := fetch(t, container, "", "/tmp/r")
		equal(t, "root's", fmt.Sprint(out["r"].Uid, out["r"].Gid), "0 0")
		_, out = fetch(t, container, "", "/tmp/a")
		equal(t, "alice's", fmt.Sprintf("%d %d %o %d", out["a"].Uid, out["a"].Gid, out["a"].Mode, out["a"].ModTime.Unix()), "1001 2001 6750 1000000000")
	})
	behaviour(t, "names that are long or odd come out", func(t *testing.T) {
		container := create(t, spec(t))
		long := strings.Repeat("folder-with-a-long-name/", 15) + strings.Repeat("n", 200)
		put(t, container, "", "/to", file(long, "deep"), file("ünï \n \\ name", "odd"), link(tar.TypeSymlink, "soft", strings.Repeat("t", 300)))
		_, out := fetch(t, container, "", "/to/")
		equal(t, "long", out["./"+long].content, "deep")
		equal(t, "odd", out["./ünï \n \\ name"].content, "odd")
		equal(t, "link", out["./soft"].Linkname, strings.Repeat("t", 300))
	})
	behaviour(t, "a stopped container gives files", func(t *testing.T) {
		container := create(t, spec(t))
		made(t, container)
		must(t, container.Stop(true))
		names, _ := fetch(t, container, "", "/tmp/d")
		equal(t, "names", sorted(names), "d/ d/file d/sub/ d/sub/file")
	})
	behaviour(t, "an absolute link leads to the container's own file", func(t *testing.T) {
		container := create(t, spec(t))
		outside := folder(t)
		sum := randomFile(t, outside+"/secret", 100)
		sh(t, container, "ln -s "+outside+" /tmp/out; ln -s /etc /tmp/etc")
		_, err := get(container, "", "/tmp/out/secret")
		refused(t, err, "No such file or directory")
		_, out := fetch(t, container, "", "/tmp/etc/passwd")
		holds(t, out["passwd"].content, "alice")
		if sum == "" {
			t.Fatal("the file outside has no hash")
		}
	})
	behaviour(t, "pipes and devices come as what they are, and nothing waits for them", func(t *testing.T) {
		container := create(t, privileged(t))
		sh(t, container, "mkdir /tmp/d; mkfifo /tmp/d/pipe; mknod /tmp/d/null c 1 3")
		_, out := fetch(t, container, "", "/tmp/d")
		equal(t, "pipe", out["d/pipe"].Typeflag, byte(tar.TypeFifo))
		equal(t, "device", fmt.Sprint(out["d/null"].Typeflag == tar.TypeChar, out["d/null"].Devmajor, out["d/null"].Devminor), "true 1 3")
	})
	behaviour(t, "what went in comes out the same, from container to container", func(t *testing.T) {
		first, second := create(t, spec(t)), create(t, privileged(t))
		var asked []member
		for i := range 300 {
			one := file(fmt.Sprintf("%d/%d", i%7, i), strings.Repeat(fmt.Sprint(i, " "), i*i))
			one.Uid, one.Gid, one.Mode = 1000+i%3, 2000+i%5, int64(0o600+i%0o100)
			asked = append(asked, one)
		}
		put(t, first, "", "/to", asked...)
		stream, err := get(first, "", "/to/")
		must(t, err)
		must(t, streamIn(second, "", "/to", bytes.NewReader(stream)))
		_, out := fetch(t, second, "", "/to/")
		for _, one := range asked {
			seen := out["./"+one.Name]
			equal(t, one.Name, fmt.Sprint(seen.Uid, seen.Gid, seen.Mode, seen.ModTime.UnixNano()), fmt.Sprint(one.Uid, one.Gid, one.Mode, then.UnixNano()))
			if seen.content != one.content {
				t.Fatalf("%s: %d bytes went in, %d others came out", one.Name, len(one.content), len(seen.content))
			}
		}
	})
	behaviour(t, "an unknown container is told from a missing file", func(t *testing.T) {
		container := create(t, spec(t))
		must(t, gard.Destroy(container.Handle()))
		_, err := get(container, "", "/etc/passwd")
		if _, is := err.(garden.ContainerNotFoundError); !is {
			t.Fatalf("got %v", err)
		}
	})
}
