package garden_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"code.cloudfoundry.org/garden"
)

// image is a root file system of a process's own, told apart by a file.
func image(t *testing.T, privileged bool) (folder string, ref garden.ImageRef) {
	t.Helper()
	folder = root(t, privileged)
	must(t, os.WriteFile(filepath.Join(folder, "whose"), []byte("the process's"), 0o644))
	return folder, garden.ImageRef{URI: "raw://" + folder}
}

// inImage is a script that runs in the image.
func inImage(ref garden.ImageRef, script string) garden.ProcessSpec {
	process := shell(script)
	process.Image = ref
	return process
}

func nothingElseRuns(t *testing.T, container garden.Container) {
	t.Helper()
	eventually(t, patience, func() error {
		seen := strings.Fields(run(t, container, garden.ProcessSpec{Path: "/bin/ps", Args: []string{"-o", "comm"}}).stdout)
		if len(seen) != 3 {
			return fmt.Errorf("there are %q", seen)
		}
		return nil
	})
}

func TestProcessWithAnImage(t *testing.T) {
	kinds := map[string]func(*testing.T) garden.ContainerSpec{"unprivileged": spec, "privileged": privileged}
	for kind, asked := range kinds {
		privileged := kind == "privileged"
		behaviour(t, kind+": it sees its own files and not its container's", func(t *testing.T) {
			container := create(t, asked(t))
			sh(t, container, "echo x >/of-the-container")
			folder, ref := image(t, privileged)
			result := run(t, container, inImage(ref, "cat /whose; ls /of-the-container; echo made >/new; pwd"))
			equal(t, "stdout", result.stdout, "the process's/root\n")
			holds(t, result.stderr, "/of-the-container: No such file or directory")
			content, err := os.ReadFile(filepath.Join(folder, "new"))
			must(t, err)
			equal(t, "on the host", string(content), "made\n")
			equal(t, "in the container", run(t, container, shell("ls /new")).status, 1)
		})
		behaviour(t, kind+": it shares network, ipc, pid, user and uts with its container, and not the mounts", func(t *testing.T) {
			container := create(t, asked(t))
			_, ref := image(t, privileged)
			script := "for n in net ipc pid user uts cgroup mnt; do readlink /proc/self/ns/$n; done; hostname"
			theirs := strings.Split(sh(t, container, script), "\n")
			its := strings.Split(run(t, container, inImage(ref, script)).stdout, "\n")
			equal(t, "lines", len(its), len(theirs))
			for index := range theirs {
				if same := theirs[index] == its[index]; same != (index != 6) {
					t.Errorf("container %s, process %s", theirs[index], its[index])
				}
			}
		})
		behaviour(t, kind+": it has the rights of its container's other processes", func(t *testing.T) {
			container := create(t, asked(t))
			_, ref := image(t, privileged)
			script := "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Sig[BIC])' /proc/self/status; " +
				"cat /proc/self/oom_score_adj; ulimit -a; umask; cat /proc/self/cgroup; cat /proc/self/uid_map"
			for _, user := range []string{"", "alice", "7:8"} {
				plain, its := shell(script), inImage(ref, script)
				plain.User, its.User = user, user
				want := run(t, container, plain)
				equal(t, "as user "+user, run(t, container, its), want)
				holds(t, want.stdout, "CapEff")
			}
		})
		behaviour(t, kind+": it has 0, 1 and 2 open and nothing else", func(t *testing.T) {
			container := create(t, asked(t))
			_, ref := image(t, privileged)
			for _, terminal := range []*garden.TTYSpec{nil, {}} {
				process := garden.ProcessSpec{Path: "sleep", Args: []string{"1000"}, TTY: terminal, Image: ref}
				started := start(t, container, process, garden.ProcessIO{})
				equal(t, "descriptors", sh(t, container, "ls /proc/$(pidof sleep)/fd | xargs"), "0 1 2\n")
				must(t, started.Signal(garden.SignalKill))
				wait(t, started)
			}
		})
		behaviour(t, kind+": its mounts are its own root, the system's and what was asked for", func(t *testing.T) {
			container := create(t, asked(t))
			_, ref := image(t, privileged)
			from := source(t)
			process := inImage(ref, "cut -d' ' -f5 /proc/self/mountinfo | sort; cat /mnt/in/file; touch /mnt/in/new; touch /rw/new")
			process.BindMounts = []garden.BindMount{
				{SrcPath: from, DstPath: "/mnt/in"}, {SrcPath: from, DstPath: "/rw", Mode: garden.BindMountModeRW},
			}
			result := run(t, container, process)
			holds(t, result.stdout, "/\n", "/dev\n", "/dev/pts\n", "/proc\n", "/sys\n", "/etc/hosts\n", "/mnt/in\n", "/rw\n", "content")
			holds(t, result.stderr, "Read-only file system")
			if _, err := os.Stat(filepath.Join(from, "new")); err != nil {
				t.Error(err)
			}
			for _, line := range strings.Fields(result.stdout) {
				if strings.HasPrefix(line, "/ctl") || strings.HasPrefix(line, "/newroot") {
					t.Errorf("it sees %s", line)
				}
			}
			holds(t, sh(t, container, "cat /proc/self/mountinfo"), " /proc ")
			equal(t, "in the container", run(t, container, shell("ls /rw")).status, 1)
		})
		behaviour(t, kind+": it has a terminal of its container's", func(t *testing.T) {
			container := create(t, asked(t))
			_, ref := image(t, privileged)
			process := inImage(ref, "tty; stty size; cat /whose")
			process.TTY = &garden.TTYSpec{WindowSize: &garden.WindowSize{Columns: 99, Rows: 33}}
			equal(t, "seen", run(t, container, process).stdout, "/dev/pts/0\r\n33 99\r\nthe process's")
		})
	}
	behaviour(t, "its container's init is its parent, and reaps it", func(t *testing.T) {
		container := create(t, spec(t))
		_, ref := image(t, false)
		result := run(t, container, inImage(ref, "echo $PPID; exit 7"))
		equal(t, "parent", result.stdout, "1\n")
		equal(t, "status", result.status, 7)
		nothingElseRuns(t, container)
	})
	behaviour(t, "it has its container's hosts", func(t *testing.T) {
		container := create(t, spec(t))
		_, ref := image(t, false)
		sh(t, container, "echo 10.1.2.3 added >>/etc/hosts")
		holds(t, run(t, container, inImage(ref, "cat /etc/hosts")).stdout, "localhost", "10.1.2.3\tadded"[:8], container.Handle())
	})
	behaviour(t, "users and groups are those of its image", func(t *testing.T) {
		container := create(t, spec(t))
		folder, ref := image(t, false)
		must(t, os.WriteFile(filepath.Join(folder, "etc/passwd"), []byte("root:x:0:0::/:/bin/sh\nonly-here:x:77:78::/of-its-own:/bin/sh\n"), 0o644))
		process := inImage(ref, "id -u; id -g; pwd")
		process.User = "only-here"
		equal(t, "seen", run(t, container, process).stdout, "77\n78\n/of-its-own\n")
		process.User = "alice"
		_, err := container.Run(process, garden.ProcessIO{})
		refused(t, err, "unable to find user alice: no matching entries in passwd file")
	})
	behaviour(t, "environment, folder, arguments and limits are as asked", func(t *testing.T) {
		asked := spec(t)
		asked.Env = []string{"A=container", "B=container"}
		container := create(t, asked)
		_, ref := image(t, false)
		files := uint64(77)
		process := inImage(ref, `echo "$A $B $HOME $(pwd) $(ulimit -n)"`)
		process.Env, process.Dir, process.Limits = []string{"B=process"}, "/made/here", garden.ResourceLimits{Nofile: &files}
		equal(t, "seen", run(t, container, process).stdout, "container process /root /made/here 77\n")
	})
	behaviour(t, "input and output are whole, and a thousand lines come in order", func(t *testing.T) {
		container := create(t, spec(t))
		_, ref := image(t, false)
		var text strings.Builder
		for line := range 1000 {
			fmt.Fprintf(&text, "line %d\n", line)
		}
		equal(t, "output", run(t, container, inImage(ref, "cat"), text.String()).stdout, text.String())
	})
	behaviour(t, "a program that its image does not have is not found", func(t *testing.T) {
		container := create(t, spec(t))
		_, ref := image(t, false)
		_, err := container.Run(garden.ProcessSpec{Path: "of-the-moon", Image: ref}, garden.ProcessIO{})
		refused(t, err, "of-the-moon", "executable file not found in $PATH")
		nothingElseRuns(t, container)
	})
	behaviour(t, "an image that is not there, or is no folder, is refused by its name", func(t *testing.T) {
		container := create(t, spec(t))
		for _, uri := range []string{"raw:///not/there", "/not/there"} {
			_, err := container.Run(inImage(garden.ImageRef{URI: uri}, "true"), garden.ProcessIO{})
			refused(t, err, "/not/there", "does not exist on the host")
		}
		file := filepath.Join(source(t), "file")
		_, err := container.Run(inImage(garden.ImageRef{URI: "raw://" + file}, "true"), garden.ProcessIO{})
		refused(t, err, file, "not a folder")
		nothingElseRuns(t, container)
	})
	behaviour(t, "a bind mount source that is missing is refused, and nothing runs", func(t *testing.T) {
		container := create(t, spec(t))
		_, ref := image(t, false)
		process := inImage(ref, "true")
		process.BindMounts = []garden.BindMount{{SrcPath: "/not/there", DstPath: "/x"}}
		_, err := container.Run(process, garden.ProcessIO{})
		refused(t, err, "/not/there", "does not exist")
		nothingElseRuns(t, container)
	})
	behaviour(t, "bind mounts without an image are refused", func(t *testing.T) {
		container := create(t, spec(t))
		process := shell("true")
		process.BindMounts = []garden.BindMount{{SrcPath: "/tmp", DstPath: "/x"}}
		_, err := container.Run(process, garden.ProcessIO{})
		refused(t, err, "bind_mounts", "image")
	})
	behaviour(t, "it can be attached to, signalled and listed like any other", func(t *testing.T) {
		container := create(t, spec(t))
		_, ref := image(t, false)
		process := inImage(ref, "trap 'echo bye; exit 4' TERM; echo ready; while :; do usleep 10000; done")
		process.ID = "its-id"
		out := newBuffer()
		started := start(t, container, process, garden.ProcessIO{Stdout: out})
		out.awaits(t, "ready\n")
		info, err := container.Info()
		must(t, err)
		equal(t, "ids", strings.Join(info.ProcessIDs, " "), "its-id")
		again, err := container.Attach("its-id", garden.ProcessIO{})
		must(t, err)
		must(t, again.Signal(garden.SignalTerminate))
		equal(t, "status", wait(t, started), 4)
		equal(t, "status again", wait(t, again), 4)
		equal(t, "output", out.String(), "ready\nbye\n")
	})
	behaviour(t, "stop ends it, and its container's destruction too, leaving its image free", func(t *testing.T) {
		container := create(t, spec(t))
		folder, ref := image(t, false)
		first := start(t, container, inImage(ref, "sleep 1000"), garden.ProcessIO{})
		must(t, container.Stop(true))
		equal(t, "status", wait(t, first), 137)
		second := start(t, container, inImage(ref, "sleep 1000"), garden.ProcessIO{})
		must(t, gard.Destroy(container.Handle()))
		_, _ = waited(second, patience)
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		must(t, err)
		if strings.Contains(string(mounts), folder) {
			t.Errorf("%s is mounted on the host", folder)
		}
		must(t, os.RemoveAll(folder))
	})
	behaviour(t, "twenty at once, with images of their own or a common one", func(t *testing.T) {
		container := create(t, spec(t))
		_, common := image(t, false)
		done := make(chan ended, 20)
		for number := range 20 {
			go func() {
				stdout, stderr := newBuffer(), newBuffer()
				process, err := container.Run(inImage(common, fmt.Sprintf("echo %d; cat /whose", number)), garden.ProcessIO{Stdout: stdout, Stderr: stderr})
				if err != nil {
					done <- ended{stderr: err.Error(), status: -1}
					return
				}
				status, err := waited(process, patience)
				if err != nil || stdout.String() != fmt.Sprintf("%d\nthe process's", number) {
					status = -2
				}
				done <- ended{stdout: stdout.String(), stderr: stderr.String(), status: status}
			}()
		}
		for range 20 {
			if result := <-done; result.status != 0 {
				t.Errorf("%+v", result)
			}
		}
	})
	behaviour(t, "an unprivileged one is no more than its container: it cannot mount, make devices or see the host's init", func(t *testing.T) {
		container := create(t, spec(t))
		_, ref := image(t, false)
		for _, attempt := range []string{
			"mount -t tmpfs none /tmp", "mknod /dev/mem2 c 1 1 && cat /dev/mem2", "unshare -m true", "echo 1 >/proc/sys/kernel/panic",
			"ls /proc/1/root/", "cat /proc/1/environ", "chroot /proc/1/root true", "hostname changed",
		} {
			result := run(t, container, inImage(ref, attempt))
			if result.status == 0 {
				t.Errorf("%s: %+v", attempt, result)
			}
		}
	})
}
