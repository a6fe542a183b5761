package garden_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"code.cloudfoundry.org/garden"
)

func TestInsideAContainer(t *testing.T) {
	behaviour(t, "a fresh container runs garden-init and the asked process and nothing else", func(t *testing.T) {
		for _, asked := range []garden.ContainerSpec{spec(t), privileged(t)} {
			container := create(t, asked)
			seen := run(t, container, garden.ProcessSpec{Path: "/bin/ps", Args: []string{"-o", "pid,comm"}}).stdout
			lines := strings.Split(strings.TrimSpace(seen), "\n")
			equal(t, "lines of ps", len(lines), 3)
			equal(t, "pid 1", strings.Join(strings.Fields(lines[1]), " "), "1 garden-init")
			equal(t, "the other", strings.Fields(lines[2])[1], "ps")
		}
	})
	behaviour(t, "a process has the descriptors 0, 1 and 2 alone", func(t *testing.T) {
		container := create(t, spec(t))
		for _, terminal := range []*garden.TTYSpec{nil, {}} {
			process := garden.ProcessSpec{Path: "sleep", Args: []string{"1000"}, TTY: terminal}
			started := start(t, container, process, garden.ProcessIO{})
			equal(t, "descriptors", sh(t, container, "ls /proc/$(pidof sleep)/fd | xargs"), "0 1 2\n")
			must(t, started.Signal(garden.SignalKill))
			wait(t, started)
		}
	})
	behaviour(t, "an unprivileged container has a user namespace of its own, a privileged one the host's", func(t *testing.T) {
		// From inside, the outer side of a map is not to be seen; the host sees it.
		inside := func(container garden.Container) string {
			return strings.Join(strings.Fields(sh(t, container, "head -1 /proc/self/uid_map")), " ")
		}
		unprivileged := inside(create(t, spec(t)))
		if !strings.HasPrefix(unprivileged, "0 4294967294 1") {
			t.Fatalf("root is mapped as %q", unprivileged)
		}
		equal(t, "the privileged map", inside(create(t, privileged(t))), "0 0 4294967295")
	})
	behaviour(t, "an unprivileged root owns its root file system and nothing of the host's", func(t *testing.T) {
		secret := source(t)
		must(t, os.WriteFile(filepath.Join(secret, "secret"), []byte("secret"), 0o600))
		container := create(t, with(spec(t), garden.BindMount{SrcPath: secret, DstPath: "/mnt", Mode: garden.BindMountModeRW}))
		equal(t, "owner of its root", sh(t, container, "stat -c %u:%g /bin/busybox"), "0:0\n")
		holds(t, run(t, container, shell("cat /mnt/secret")).stderr, "Permission denied")
		holds(t, run(t, container, shell("chown 0:0 /mnt/secret")).stderr, "not permitted")
	})
	behaviour(t, "an unprivileged container has the small set of capabilities, and its users none", func(t *testing.T) {
		container := create(t, spec(t))
		process := shell("grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | tr -s '\\t ' ' '")
		seen := run(t, container, process).stdout
		// chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot mknod
		// audit_write setfcap
		const small = "00000000a80425fb"
		for _, line := range []string{"CapInh: 0000000000000000", "CapPrm: " + small, "CapEff: " + small, "CapBnd: " + small} {
			holds(t, seen, line)
		}
		process.User = "alice"
		seen = run(t, container, process).stdout
		for _, line := range []string{"CapInh: 0000000000000000", "CapPrm: 0000000000000000", "CapEff: 0000000000000000"} {
			holds(t, seen, line)
		}
	})
	behaviour(t, "an unprivileged container cannot mount, nor make a user namespace", func(t *testing.T) {
		container := create(t, spec(t))
		for _, script := range []string{"mount -t tmpfs tmpfs /tmp", "unshare -U true", "unshare -m true"} {
			if result := run(t, container, shell(script)); result.status == 0 {
				t.Fatalf("%s succeeded", script)
			}
		}
	})
	behaviour(t, "a privileged container can mount", func(t *testing.T) {
		container := create(t, privileged(t))
		sh(t, container, "mount -t tmpfs tmpfs /tmp && touch /tmp/x && umount /tmp")
	})
	behaviour(t, "an unprivileged container's view of the kernel is masked and read-only", func(t *testing.T) {
		container := create(t, spec(t))
		for _, script := range []string{
			"echo 1 >/proc/sys/kernel/panic", "echo h >/proc/sysrq-trigger", "touch /sys/kernel/x", "head -c1 /proc/kcore | grep .",
		} {
			if result := run(t, container, shell(script)); result.status == 0 {
				t.Fatalf("%s succeeded", script)
			}
		}
	})
	behaviour(t, "the usual devices are there, for every user", func(t *testing.T) {
		container := create(t, spec(t))
		process := shell(`
			set -e
			echo x >/dev/null; head -c 4 /dev/zero | od -An -tx1; test "$(head -c 16 /dev/urandom | wc -c)" = 16
			test -c /dev/full; test -c /dev/random; test -c /dev/tty; test -e /dev/ptmx
			test -d /dev/pts; test -d /dev/mqueue; echo y >/dev/shm/mine; ls -l /dev/fd /dev/stdin /dev/stdout /dev/stderr >/dev/null
		`)
		process.User = "alice"
		result := run(t, container, process)
		equal(t, result.stderr, result.status, 0)
	})
	behaviour(t, "the standard streams can be opened by their names, by every user", func(t *testing.T) {
		for _, asked := range []garden.ContainerSpec{spec(t), privileged(t)} {
			container := create(t, asked)
			for _, user := range []string{"root", "alice"} {
				process := shell("set -e; echo to-out >/dev/stdout; echo to-err >/dev/stderr; cat /dev/stdin >/proc/self/fd/1")
				process.User = user
				result := run(t, container, process, "from-in\n")
				equal(t, user+": "+result.stderr, result.status, 0)
				equal(t, user+"'s stdout", result.stdout, "to-out\nfrom-in\n")
				equal(t, user+"'s stderr", result.stderr, "to-err\n")
			}
		}
	})
	behaviour(t, "the hostname is the end of the handle", func(t *testing.T) {
		asked := spec(t)
		asked.Handle = unique(strings.Repeat("long-", 20))
		container := create(t, asked)
		want := asked.Handle[len(asked.Handle)-49:]
		equal(t, "hostname", sh(t, container, "hostname"), want+"\n")
		holds(t, sh(t, container, "cat /etc/hosts"), "127.0.0.1", "localhost", want)
		short := spec(t)
		equal(t, "hostname", sh(t, create(t, short), "hostname"), short.Handle+"\n")
	})
	behaviour(t, "the container has a loopback of its own, and up", func(t *testing.T) {
		container := create(t, spec(t))
		equal(t, "loopbacks", sh(t, container, "ip -o link | grep -c LOOPBACK,UP"), "1\n")
		sh(t, container, "ping -c1 -W2 127.0.0.1")
	})
	behaviour(t, "nothing of the blank place is to be seen", func(t *testing.T) {
		container := create(t, spec(t))
		equal(t, "control folder", sh(t, container, "ls -d /ctl /garden-init 2>/dev/null || echo none"), "none\n")
		if seen := sh(t, container, "cat /proc/self/mountinfo"); strings.Contains(seen, "/places/") && !strings.Contains(seen, "/etc/hosts") {
			t.Fatalf("a place's folder shows: %s", seen)
		}
	})
	behaviour(t, "the container's root cannot end its init", func(t *testing.T) {
		for _, asked := range []garden.ContainerSpec{spec(t), privileged(t)} {
			container := create(t, asked)
			run(t, container, shell("kill -9 1; kill -TERM 1; kill -SEGV 1; kill -STOP 1; true"))
			equal(t, "afterwards", sh(t, container, "echo fine"), "fine\n")
		}
	})
	behaviour(t, "processes of one container do not see another's", func(t *testing.T) {
		one, two := create(t, spec(t)), create(t, spec(t))
		start(t, one, garden.ProcessSpec{Path: "sleep", Args: []string{"1000"}}, garden.ProcessIO{})
		equal(t, "seen from the other", sh(t, two, "pidof sleep || echo none"), "none\n")
	})
	behaviour(t, "processes of one container share files, processes and loopback", func(t *testing.T) {
		container := create(t, spec(t))
		stdout := newBuffer()
		start(t, container, shell("echo hi | nc -l -p 4000 127.0.0.1 & echo on; wait"), garden.ProcessIO{Stdout: stdout})
		stdout.awaits(t, "on")
		eventually(t, patience, func() error {
			result := run(t, container, shell("nc -w 2 127.0.0.1 4000 </dev/null"))
			if result.stdout != "hi\n" {
				return fmt.Errorf("%+v", result)
			}
			return nil
		})
	})
}
