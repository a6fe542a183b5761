package garden_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"code.cloudfoundry.org/garden"

	"github.com/gardend/gardend/tests/go/inside"
)

// probe is where the test binary is in a container that has it.
const probe = "/probe"

// withProbe asks for a container that the test binary is in.
func withProbe(t *testing.T, asked garden.ContainerSpec) garden.ContainerSpec {
	t.Helper()
	own, err := os.Executable()
	must(t, err)
	return with(asked, garden.BindMount{SrcPath: own, DstPath: probe})
}

// look runs the probe and returns what it found, by what it tried.
func look(t *testing.T, container garden.Container, user string, words ...string) map[string]string {
	t.Helper()
	process := garden.ProcessSpec{Path: probe, Args: append([]string{inside.Word}, words...), User: user}
	result := run(t, container, process)
	equal(t, result.stderr, result.status, 0)
	found := map[string]string{}
	for line := range strings.Lines(result.stdout) {
		name, outcome, _ := strings.Cut(strings.TrimSpace(line), ": ")
		found[name] = outcome
	}
	return found
}

// harmless are the attempts that may succeed: they end where they began.
var harmless = map[string]bool{"mknod of a pipe": true}

// ofInit is what an unprivileged root may do to its own init: see that it has descriptors (and not which), and have it
// chosen sooner when memory runs out. The last is an open without a write, which security modules would refuse.
var ofInit = map[string]bool{"list fd": true, "list map_files": true, "write oom_score_adj": true, "write attr/exec": true}

func allRefused(t *testing.T, found map[string]string, but map[string]bool) {
	t.Helper()
	for name, outcome := range found {
		switch {
		case but[name] && outcome == "done":
		case outcome == "EPERM", outcome == "EACCES", outcome == "EROFS", outcome == "ENOSYS":
		case strings.HasPrefix(name, "content of ") && (outcome == "empty" || outcome == "ENOENT"):
		case strings.HasPrefix(name, "write /proc/") && outcome == "ENOENT":
		default:
			t.Errorf("%s: %s", name, outcome)
		}
	}
}

func TestEscape(t *testing.T) {
	for _, user := range []string{"root", "alice"} {
		behaviour(t, user+" of an unprivileged container can neither mount nor make namespaces, devices or cgroups, nor reach the kernel", func(t *testing.T) {
			found := look(t, create(t, withProbe(t, spec(t))), user, "attempts")
			allRefused(t, found, harmless)
			if len(found) < 62 {
				t.Errorf("%d things were tried", len(found))
			}
			// By the filter, before any right is looked at.
			for _, name := range []string{"mount", "unshare a user namespace", "clone a user namespace", "bpf", "keyctl", "setns", "open_by_handle_at"} {
				equal(t, name, found[name], "EPERM")
			}
			equal(t, "clone3", found["clone3"], "ENOSYS")
		})
		behaviour(t, user+" of an unprivileged container cannot look into its init", func(t *testing.T) {
			found := look(t, create(t, withProbe(t, spec(t))), user, "peek", "1")
			allRefused(t, found, ofInit)
			equal(t, "attempts", len(found), 21)
			for _, name := range []string{"attach", "read mem", "open root/etc", "open fd/3", "open ns/mnt", "open exe"} {
				if found[name] == "done" {
					t.Errorf("%s succeeded", name)
				}
			}
		})
		behaviour(t, user+" of an unprivileged container has terminals of its own", func(t *testing.T) {
			found := look(t, create(t, withProbe(t, spec(t))), user, "terminal")
			if _, through := found[`"through\r\n"`]; !through {
				t.Errorf("got %v", found)
			}
		})
		behaviour(t, user+" of an unprivileged container cannot speak to its init", func(t *testing.T) {
			paths := []string{"/ctl/init.sock", "/proc/1/root/ctl/init.sock", "/proc/1/cwd/ctl/init.sock", "/init.sock"}
			for path, outcome := range look(t, create(t, withProbe(t, spec(t))), user, append([]string{"connect"}, paths...)...) {
				if outcome != "ENOENT" && outcome != "EACCES" {
					t.Errorf("%s: %s", path, outcome)
				}
			}
		})
	}
	behaviour(t, "a chroot is left into the container's own root at most", func(t *testing.T) {
		container := create(t, withProbe(t, spec(t)))
		if _, own := look(t, container, "root", "leave-chroot")["came out in the container's own root"]; !own {
			t.Error("it came out elsewhere")
		}
		equal(t, "as alice", look(t, container, "alice", "leave-chroot")["EPERM"], "")
		container = create(t, withProbe(t, privileged(t)))
		if _, own := look(t, container, "root", "leave-chroot")["came out in the container's own root"]; !own {
			t.Error("it came out elsewhere of a privileged one")
		}
	})
	behaviour(t, "no symbolic link and no dots lead to the host's files", func(t *testing.T) {
		secret := folder(t)
		must(t, os.WriteFile(filepath.Join(secret, "secret"), []byte("the host's"), 0o644))
		for _, asked := range []garden.ContainerSpec{spec(t), privileged(t)} {
			container := create(t, withProbe(t, asked))
			up := strings.Repeat("../", 40)
			sh(t, container, fmt.Sprintf("ln -s %s /absolute; ln -s %s /relative; ln -s /proc/1/root%s /by-init", secret, up+secret[1:], secret))
			paths := []string{
				"/absolute/secret", "/relative/secret", "/by-init/secret", secret + "/secret", "/" + up + secret + "/secret",
				"/proc/self/root" + secret + "/secret", "/proc/self/cwd/" + up + secret + "/secret",
			}
			for path, outcome := range look(t, container, "root", append([]string{"open"}, paths...)...) {
				if outcome != "ENOENT" && outcome != "EACCES" {
					t.Errorf("%s: %s", path, outcome)
				}
			}
		}
	})
	behaviour(t, "an unprivileged container is filtered, and a privileged one is not; programs may gain rights in both", func(t *testing.T) {
		status := func(container garden.Container) string {
			return sh(t, container, "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | tr -s '\t' ' '")
		}
		equal(t, "unprivileged", status(create(t, spec(t))), "NoNewPrivs: 0\nSeccomp: 2\n")
		equal(t, "privileged", status(create(t, privileged(t))), "NoNewPrivs: 0\nSeccomp: 0\n")
	})
	behaviour(t, "a set-user-id program runs as its owner", func(t *testing.T) {
		for _, asked := range []garden.ContainerSpec{spec(t), privileged(t)} {
			container := create(t, withProbe(t, asked))
			sh(t, container, "cp /probe /as-root; chmod 4755 /as-root; echo x >/secret; chmod 600 /secret")
			equal(t, "by itself", look(t, container, "alice", "open", "/secret")["/secret"], "EACCES")
			process := garden.ProcessSpec{Path: "/as-root", Args: []string{inside.Word, "open", "/secret"}, User: "alice"}
			equal(t, "as root", run(t, container, process).stdout, "/secret: done\n")
		}
	})
	behaviour(t, "a core limit is none that anybody waits for, and can be asked for", func(t *testing.T) {
		container := create(t, spec(t))
		equal(t, "by itself", sh(t, container, "ulimit -Sc"), "0\n")
		process := shell("ulimit -Sc")
		process.Limits.Core = new(uint64)
		*process.Limits.Core = 1 << 20
		// In blocks of 512 bytes.
		equal(t, "asked for", run(t, container, process).stdout, "2048\n")
	})
	behaviour(t, "an unprivileged container has the usual devices and no others", func(t *testing.T) {
		seen := strings.Fields(sh(t, create(t, spec(t)), "cd /dev; ls | grep -vE 'console|core' | sort"))
		want := strings.Fields("fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero")
		equal(t, "devices", strings.Join(seen, " "), strings.Join(want, " "))
		equal(t, "disks", sh(t, create(t, spec(t)), "find /dev -type b | wc -l"), "0\n")
	})
	behaviour(t, "a privileged container has the machine's devices", func(t *testing.T) {
		container := create(t, privileged(t))
		for _, device := range []string{"/dev/fuse", "/dev/kmsg", "/dev/loop-control"} {
			if _, err := os.Stat(device); err == nil {
				sh(t, container, "test -c "+device)
			}
		}
		sh(t, container, "mknod /tmp/null c 1 3 && echo x >/tmp/null")
	})
	behaviour(t, "a privileged container has all that gardend itself has, and no more", func(t *testing.T) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", server.Pid()))
		must(t, err)
		var bounding string
		for line := range strings.Lines(string(status)) {
			if value, found := strings.CutPrefix(line, "CapBnd:\t"); found {
				bounding = value
			}
		}
		seen := sh(t, create(t, privileged(t)), "grep -E '^Cap(Prm|Eff|Bnd)' /proc/self/status | cut -f2")
		equal(t, "capabilities", seen, strings.Repeat(bounding, 3))
	})
	behaviour(t, "file systems of the kernel's are read-only where nobody is privileged", func(t *testing.T) {
		script := "for d in /sys /sys/fs/cgroup /proc/sys; do awk -v d=$d '$5==d {print $6}' /proc/self/mountinfo | tail -1 | cut -d, -f1; done | xargs"
		equal(t, "unprivileged", sh(t, create(t, spec(t)), script), "ro ro ro\n")
		equal(t, "privileged", strings.HasPrefix(sh(t, create(t, privileged(t)), script), "rw"), true)
	})
	behaviour(t, "/proc and /dev carry neither devices nor set-id programs for the unprivileged", func(t *testing.T) {
		script := "awk '$5==\"/proc\" || $5==\"/dev/shm\" || $5==\"/dev/mqueue\" {print $6}' /proc/self/mountinfo"
		for line := range strings.Lines(sh(t, create(t, spec(t)), script)) {
			holds(t, line, "nosuid", "nodev", "noexec")
		}
	})
	behaviour(t, "the container's mounts do not show where the host keeps things", func(t *testing.T) {
		for _, asked := range []garden.ContainerSpec{spec(t), privileged(t)} {
			table := sh(t, create(t, asked), "cut -d' ' -f4,5 /proc/self/mountinfo")
			for line := range strings.Lines(table) {
				fields := strings.Fields(line)
				if strings.HasPrefix(fields[1], "/ctl") || strings.HasPrefix(fields[1], "/newroot") {
					t.Errorf("%s is left of the blank place", line)
				}
			}
		}
	})
	behaviour(t, "a privileged container runs a container runtime, and a container in it", func(t *testing.T) {
		var mounts []garden.BindMount
		for _, library := range []string{"/usr", "/lib", "/lib64"} {
			if _, err := os.Stat(library); err == nil {
				mounts = append(mounts, garden.BindMount{SrcPath: library, DstPath: "/host" + library})
			}
		}
		container := create(t, with(privileged(t), mounts...))
		sh(t, container, `
			set -e
			mkdir -p /usr /lib /lib64 /inner/bin /nested
			for d in usr lib lib64; do test ! -d /host/$d || mount --bind /host/$d /$d; done
			cp /bin/busybox /inner/bin/; ln -s busybox /inner/bin/sh
			mount -t tmpfs nested /nested
		`)
		process := garden.ProcessSpec{
			Path: "/usr/bin/containerd",
			Args: []string{"--root", "/nested/root", "--state", "/nested/state", "--address", "/nested/sock", "--log-level", "error"},
			Env:  []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		}
		daemon := start(t, container, process, garden.ProcessIO{})
		eventually(t, patience, func() error {
			if run(t, container, shell("test -S /nested/sock")).status != 0 {
				return errors.New("the containerd within does not listen")
			}
			return nil
		})
		script := "PATH=/usr/sbin:/usr/bin:/sbin:/bin ctr -a /nested/sock run --rm --rootfs /inner within /bin/sh -c 'echo pid $$ of its own'"
		result := run(t, container, shell(script))
		equal(t, result.stderr, result.stdout, "pid 1 of its own\n")
		// One that stays, so that the container goes with something in it.
		result = run(t, container, shell("PATH=/usr/sbin:/usr/bin:/sbin:/bin ctr -a /nested/sock run -d --rootfs /inner stays /bin/busybox sleep 1000"))
		equal(t, result.stderr, result.status, 0)
		groups := groupsOf(t, container)
		must(t, gard.Destroy(container.Handle()))
		_, _ = waited(daemon, patience)
		eventually(t, patience, func() error {
			for _, group := range groups {
				if _, err := os.Stat(group); err == nil {
					return fmt.Errorf("%s is left", group)
				}
			}
			return nil
		})
	})
}
