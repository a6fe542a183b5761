package host_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"
)

// archive is a tar stream with one file.
func archive(t *testing.T, name, content string) io.Reader {
	t.Helper()
	var stream bytes.Buffer
	writer := tar.NewWriter(&stream)
	must(t, writer.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}))
	_, err := io.WriteString(writer, content)
	must(t, err)
	must(t, writer.Close())
	return &stream
}

// contents are the names and contents of a tar stream's files.
func contents(t *testing.T, stream io.ReadCloser) map[string]string {
	t.Helper()
	defer stream.Close()
	found, reader := map[string]string{}, tar.NewReader(stream)
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return found
		}
		must(t, err)
		content, err := io.ReadAll(reader)
		must(t, err)
		found[strings.TrimPrefix(header.Name, "./")] = string(content)
	}
}

// volume is a folder of the server's user with a file that says its name.
func volume(t *testing.T, s *server, name string) string {
	t.Helper()
	folder := filepath.Join(s.folder, name)
	must(t, os.Mkdir(folder, 0o755))
	file := filepath.Join(folder, "name")
	must(t, os.WriteFile(file, []byte(name), 0o644))
	must(t, os.Chown(folder, int(s.user), int(s.user)))
	must(t, os.Chown(file, int(s.user), int(s.user)))
	return folder
}

func TestContainers(t *testing.T) {
	both(t, "files are streamed in and out below the container's folder", func(t *testing.T, s *server) {
		container := create(t, s, garden.ContainerSpec{})
		for _, target := range []string{"/to", "relative", "/../../../up"} {
			must(t, container.StreamIn(garden.StreamInSpec{Path: target, TarStream: archive(t, "file", target)}))
			content, err := os.ReadFile(path(t, container, filepath.Join("/", target, "file")))
			must(t, err)
			equal(t, target, string(content), target)
		}
		equal(t, "as its processes see it", sh(t, container, "cat up/file"), "/../../../up")
		stream, err := container.StreamOut(garden.StreamOutSpec{Path: "/to/"})
		must(t, err)
		equal(t, "contents", contents(t, stream)["file"], "/to")
		stream, err = container.StreamOut(garden.StreamOutSpec{Path: "to/file"})
		must(t, err)
		equal(t, "a file", contents(t, stream)["file"], "/to")
		_, err = container.StreamOut(garden.StreamOutSpec{Path: "/missing"})
		refused(t, err, "No such file or directory")
		err = container.StreamIn(garden.StreamInSpec{Path: "/", TarStream: archive(t, "../out", "x")})
		refused(t, err, "../out")
	})
	both(t, "bind mounts are links, also within each other, and what they lead to stays", func(t *testing.T, s *server) {
		outer, inner := volume(t, s, "outer"), volume(t, s, "inner")
		spec := garden.ContainerSpec{BindMounts: []garden.BindMount{
			{SrcPath: inner, DstPath: "/work/in", Mode: garden.BindMountModeRW},
			{SrcPath: outer, DstPath: "/work", Mode: garden.BindMountModeRO},
		}}
		container := create(t, s, spec)
		equal(t, "files", sh(t, container, "cat work/name work/in/name; echo new >work/in/new"), "outerinner")
		content, err := os.ReadFile(filepath.Join(inner, "new"))
		must(t, err)
		equal(t, "content", string(content), "new\n")
		must(t, s.Destroy(container.Handle()))
		eventually(t, func() error {
			if _, err := os.Lstat(filepath.Join(outer, "in")); err == nil {
				return fmt.Errorf("the link within the volume is there")
			}
			return nil
		})
		for _, folder := range []string{outer, inner} {
			_, err := os.Stat(filepath.Join(folder, "name"))
			must(t, err)
		}
		holds(t, s.log.String(), "read-only bind mounts can be written to")
		spec.BindMounts[0].SrcPath = "/no/such/folder"
		_, err = s.Create(spec)
		refused(t, err, "/no/such/folder")
	})
	both(t, "a raw rootfs is taken and not used, and an image is refused", func(t *testing.T, s *server) {
		container := create(t, s, garden.ContainerSpec{Image: garden.ImageRef{URI: "raw://" + volume(t, s, "root")}})
		equal(t, "its folder", sh(t, container, "ls -A"), "")
		holds(t, s.log.String(), "its rootfs is not used")
		_, err := s.Create(garden.ContainerSpec{Image: garden.ImageRef{URI: "docker:///busybox"}})
		refused(t, err, "--backend host")
		_, err = s.Create(garden.ContainerSpec{Image: garden.ImageRef{URI: "raw:///no/such/folder"}})
		refused(t, err, "/no/such/folder")
	})
	both(t, "a port is the machine's own, the same on both sides", func(t *testing.T, s *server) {
		container, other := create(t, s, garden.ContainerSpec{}), create(t, s, garden.ContainerSpec{})
		outer, inner, err := container.NetIn(0, 0)
		must(t, err)
		if outer == 0 || outer != inner {
			t.Fatalf("%d leads to %d", outer, inner)
		}
		for _, asked := range [][2]uint32{{0, 8080}, {8080, 8080}, {8080, 0}} {
			outer, inner, err := container.NetIn(asked[0], asked[1])
			must(t, err)
			equal(t, "ports", [2]uint32{outer, inner}, [2]uint32{8080, 8080})
		}
		_, _, err = container.NetIn(8081, 80)
		refused(t, err, "host port 8081 cannot lead to port 80")
		_, _, err = other.NetIn(0, 8080)
		refused(t, err, "8080", container.Handle())
		must(t, container.NetOut(garden.NetOutRule{}))
		info, err := container.Info()
		must(t, err)
		equal(t, "addresses", [3]string{info.HostIP, info.ContainerIP, info.ExternalIP},
			[3]string{"127.0.0.1", "127.0.0.1", "127.0.0.1"})
		equal(t, "mapped ports", len(info.MappedPorts), 2)
		_, err = s.Create(garden.ContainerSpec{Network: "10.1.2.0/24"})
		refused(t, err, "the node's own network")
	})
	both(t, "limits are taken and not in force, and figures are what is known", func(t *testing.T, s *server) {
		container := create(t, s, garden.ContainerSpec{Limits: garden.Limits{
			Memory: garden.MemoryLimits{LimitInBytes: 64 << 20}, Pid: garden.PidLimits{Max: 3},
			CPU: garden.CPULimits{LimitInShares: 2}, Disk: garden.DiskLimits{ByteHard: 1 << 20},
		}})
		limits, err := container.CurrentMemoryLimits()
		must(t, err)
		equal(t, "limit of memory", limits.LimitInBytes, 0)
		holds(t, s.log.String(), "limits of a container are not enforced")
		output := &buffer{}
		start(t, container, shell("dd if=/dev/zero of=file bs=1M count=2 2>/dev/null; sleep 1000 & echo on; wait"),
			garden.ProcessIO{Stdout: output})
		output.awaits(t, "on\n")
		eventually(t, func() error {
			entries, err := s.BulkMetrics([]string{container.Handle()})
			must(t, err)
			seen := entries[container.Handle()]
			must(t, errorOf(seen.Err))
			figures := seen.Metrics
			if figures.PidStat.Current != 2 || figures.MemoryStat.TotalUsageTowardLimit == 0 ||
				figures.CPUStat.Usage == 0 || figures.DiskStat.TotalBytesUsed < 2<<20 {
				return fmt.Errorf("%+v", figures)
			}
			return nil
		})
	})
	both(t, "properties are kept and found, and many are asked of at once", func(t *testing.T, s *server) {
		container := create(t, s, garden.ContainerSpec{Properties: garden.Properties{"kind": "one"}})
		other := create(t, s, garden.ContainerSpec{Properties: garden.Properties{"kind": "other"}})
		must(t, container.SetProperty("more", "yes"))
		found, err := s.Containers(garden.Properties{"more": "yes"})
		must(t, err)
		equal(t, "found", len(found), 1)
		entries, err := s.BulkInfo([]string{container.Handle(), other.Handle(), "nobody"})
		must(t, err)
		equal(t, "property", entries[other.Handle()].Info.Properties["kind"], "other")
		if entries["nobody"].Err == nil {
			t.Fatal("somebody is known by the name of nobody")
		}
		equal(t, "state", entries[container.Handle()].Info.State, "active")
	})
}

func errorOf(err *garden.Error) error {
	if err == nil {
		return nil
	}
	return err
}

func TestServer(t *testing.T) {
	both(t, "it says in one line what is not isolated", func(t *testing.T, s *server) {
		var found string
		for line := range strings.Lines(s.log.String()) {
			if strings.Contains(line, "--backend host is for development") {
				found = line
			}
		}
		holds(t, found, "WARN", "files", "users", "processes", "network", "limits")
	})
	t.Run("without root its folders are the user's own", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, nobody)
		s.state = filepath.Join(s.folder, ".local", "state", "gardend")
		s.run = filepath.Join(s.state, "run")
		s.start(t, "--log-level", "info")
		container := create(t, s, garden.ContainerSpec{})
		if folder := path(t, container, ""); !strings.HasPrefix(folder, s.state+"/host/containers/") {
			t.Fatal(folder)
		}
		must(t, s.Destroy(container.Handle()))
		eventually(t, s.leftovers)
	})
	t.Run("the folder of another backend is refused", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, root)
		must(t, os.Mkdir(s.state, 0o755))
		must(t, os.WriteFile(filepath.Join(s.state, "ledger.db"), nil, 0o600))
		said, err := s.serve("--listen", "127.0.0.1:0", "--state-dir", s.state, "--run-dir", s.run).CombinedOutput()
		if err == nil {
			t.Fatal("it serves")
		}
		holds(t, string(said), s.state, "--backend containerd")
	})
	t.Run("a machine is checked for what this backend needs alone", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, nobody)
		command := s.serve()
		command.Args = []string{program, "check", "--backend", "host", "--state-dir", s.state, "--run-dir", s.run}
		said, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, said)
		}
		holds(t, string(said), "isolation", "state folder")
	})
}

func TestDrain(t *testing.T) {
	both(t, "a drained server refuses what is new as unavailable, and what there is can be used", func(t *testing.T, s *server) {
		container := create(t, s, garden.ContainerSpec{})
		must(t, s.command.Process.Signal(syscall.SIGUSR1))
		var err error
		for deadline := time.Now().Add(patience); err == nil; {
			if time.Now().After(deadline) {
				t.Fatal("SIGUSR1 did not drain it")
			}
			var late garden.Container
			if late, err = s.Create(garden.ContainerSpec{}); err == nil {
				must(t, s.Destroy(late.Handle()))
			}
		}
		if !errors.As(err, new(garden.ServiceUnavailableError)) {
			t.Fatalf("%T %v", err, err)
		}
		refused(t, err, "being drained", "another node")
		must(t, s.Ping())
		equal(t, "output", sh(t, container, "echo still here"), "still here\n")
	})
}
