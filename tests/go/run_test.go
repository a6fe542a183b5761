package garden_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"
)

func TestRun(t *testing.T) {
	behaviour(t, "arguments arrive as they were given", func(t *testing.T) {
		arguments := []string{"plain", "", "two words", "line\nbreak", "ünï", `"'$HOME\`, "-n", "*"}
		container := create(t, spec(t))
		result := run(t, container, garden.ProcessSpec{
			Path: "/bin/sh", Args: append([]string{"-c", `for a in "$@"; do printf '[%s]' "$a"; done`, "name"}, arguments...),
		})
		equal(t, "seen", result.stdout, "["+strings.Join(arguments, "][")+"]")
	})
	behaviour(t, "a program is found by its name in the process's PATH", func(t *testing.T) {
		asked := spec(t)
		container := create(t, asked)
		sh(t, container, "mkdir /tools; printf '#!/bin/sh\necho mine\n' >/tools/mine; chmod +x /tools/mine")
		result := run(t, container, garden.ProcessSpec{Path: "mine", Env: []string{"PATH=/nowhere:/tools"}})
		equal(t, "output", result.stdout, "mine\n")
		result = run(t, container, garden.ProcessSpec{Path: "echo", Args: []string{"by name"}})
		equal(t, "output", result.stdout, "by name\n")
	})
	behaviour(t, "the process's environment wins over the container's, and later entries over earlier ones", func(t *testing.T) {
		asked := spec(t)
		asked.Env = []string{"A=container", "B=container", "E=", "D=with=sign"}
		container := create(t, asked)
		process := shell(`echo "$A,$B,$C,$D,${E-unset}"`)
		process.Env = []string{"B=first", "B=process", "C=process"}
		equal(t, "seen", run(t, container, process).stdout, "container,process,process,with=sign,\n")
	})
	behaviour(t, "HOME, USER and PATH are set where nobody set them", func(t *testing.T) {
		container := create(t, spec(t))
		process := shell(`echo "$HOME $USER $PATH"`)
		equal(t, "root", run(t, container, process).stdout,
			"/root root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n")
		process.User = "alice"
		result := run(t, container, process).stdout
		holds(t, result, "/home/alice alice /usr/local/bin:/usr/bin:/bin")
		if strings.Contains(result, "sbin") {
			t.Fatalf("a user's PATH has the administrator's folders: %s", result)
		}
	})
	behaviour(t, "HOME, USER and PATH stay as the client set them", func(t *testing.T) {
		asked := spec(t)
		asked.Env = []string{"HOME=/by-container", "PATH=/bin"}
		container := create(t, asked)
		process := shell(`echo "$HOME $USER $PATH"`)
		process.Env = []string{"USER=somebody"}
		equal(t, "seen", run(t, container, process).stdout, "/by-container somebody /bin\n")
	})
	behaviour(t, "the working folder is the user's home, or as asked", func(t *testing.T) {
		container := create(t, spec(t))
		equal(t, "root's", sh(t, container, "pwd"), "/root\n")
		equal(t, "alice's", run(t, container, garden.ProcessSpec{Path: "pwd", User: "alice"}).stdout, "/home/alice\n")
		equal(t, "as asked", run(t, container, garden.ProcessSpec{Path: "pwd", Dir: "/usr/bin"}).stdout, "/usr/bin\n")
	})
	behaviour(t, "a working folder that is missing is made and belongs to the user", func(t *testing.T) {
		container := create(t, spec(t))
		process := shell("pwd; stat -c %U:%G . ..; touch mine")
		process.Dir, process.User = "/home/alice/new/deep", "alice"
		equal(t, "seen", run(t, container, process).stdout, "/home/alice/new/deep\nalice:alice\nalice:alice\n")
		process.Dir = "/var/made-for-alice"
		holds(t, run(t, container, process).stdout, "/var/made-for-alice\nalice:alice\n")
	})
	behaviour(t, "a working folder that cannot be is refused by its name", func(t *testing.T) {
		container := create(t, spec(t))
		_, err := container.Run(garden.ProcessSpec{Path: "pwd", Dir: "/etc/passwd/below"}, garden.ProcessIO{})
		refused(t, err, "/etc/passwd/below")
	})
	behaviour(t, "a user is a name, a number, or either with a group", func(t *testing.T) {
		container := create(t, spec(t))
		for asked, seen := range map[string]string{
			"":            "0:0",
			"root":        "0:0",
			"alice":       "1001:1001",
			"1001":        "1001:1001",
			"1002:2002":   "1002:2002",
			"alice:staff": "1001:2001",
			"4242":        "4242:0",
			"4242:4343":   "4242:4343",
		} {
			process := shell(`echo "$(id -u):$(id -g)"`)
			process.User = asked
			equal(t, "user "+asked, strings.TrimSpace(run(t, container, process).stdout), seen)
		}
	})
	behaviour(t, "a user has the supplementary groups of the container's own file", func(t *testing.T) {
		container := create(t, spec(t))
		for user, groups := range map[string]string{
			"alice": "1001 2001 2002\n", "bob": "1002 2001\n", "root": "0\n", "4242:4343": "4343\n",
		} {
			process := garden.ProcessSpec{Path: "/bin/sh", Args: []string{"-c", "id -G | tr ' ' '\\n' | sort -nu | xargs"}, User: user}
			equal(t, "groups of "+user, run(t, container, process).stdout, groups)
		}
	})
	behaviour(t, "a user that the container does not know is refused in the words that clients match", func(t *testing.T) {
		container := create(t, spec(t))
		_, err := container.Run(garden.ProcessSpec{Path: "id", User: "mallory"}, garden.ProcessIO{})
		refused(t, err, "unable to find user mallory: no matching entries in passwd file")
		_, err = container.Run(garden.ProcessSpec{Path: "id", User: "alice:nogroupofthisname"}, garden.ProcessIO{})
		refused(t, err, "nogroupofthisname")
	})
	behaviour(t, "users are looked up as the container's file is at that moment", func(t *testing.T) {
		container := create(t, spec(t))
		sh(t, container, "echo 'carol:x:1003:1003::/home/carol:/bin/sh' >>/etc/passwd")
		equal(t, "carol", run(t, container, garden.ProcessSpec{Path: "/bin/id", Args: []string{"-u"}, User: "carol", Dir: "/"}).stdout, "1003\n")
	})
	behaviour(t, "without a passwd file root and numbers work and names do not", func(t *testing.T) {
		asked := spec(t)
		path := strings.TrimPrefix(asked.Image.URI, "raw://")
		must(t, os.Remove(filepath.Join(path, "etc/passwd")))
		must(t, os.Remove(filepath.Join(path, "etc/group")))
		container := create(t, asked)
		for user, seen := range map[string]string{"": "0:0\n", "root": "0:0\n", "7:8": "7:8\n"} {
			process := shell(`echo "$(id -u):$(id -g)"`)
			process.User, process.Dir = user, "/"
			equal(t, "user "+user, run(t, container, process).stdout, seen)
		}
		_, err := container.Run(garden.ProcessSpec{Path: "id", User: "alice"}, garden.ProcessIO{})
		refused(t, err, "unable to find user alice")
	})
	behaviour(t, "a program that is missing is the error that clients fall back on", func(t *testing.T) {
		container := create(t, spec(t))
		for _, path := range []string{"no-such-program", "/no/such/program", "bash"} {
			_, err := container.Run(garden.ProcessSpec{Path: path}, garden.ProcessIO{})
			if !errors.As(err, new(garden.ExecutableNotFoundError)) {
				t.Fatalf("%s: %T %v", path, err, err)
			}
			refused(t, err, path, "executable file not found in $PATH")
		}
		info, err := container.Info()
		must(t, err)
		equal(t, "processes", len(info.ProcessIDs), 0)
	})
	behaviour(t, "a program that is there but cannot run says why", func(t *testing.T) {
		container := create(t, spec(t))
		sh(t, container, `
			echo data >/data; chmod 644 /data
			printf '\177ELF but not really' >/broken; chmod 755 /broken
			printf '#!/no/such/interpreter\n' >/script; chmod 755 /script
		`)
		for path, reason := range map[string]string{
			"/data": "permission denied", "/etc": "permission denied", "/broken": "exec format error", "/script": "interpreter",
		} {
			_, err := container.Run(garden.ProcessSpec{Path: path}, garden.ProcessIO{})
			if errors.As(err, new(garden.ExecutableNotFoundError)) {
				t.Fatalf("%s: is there, but: %v", path, err)
			}
			refused(t, err, path)
			holds(t, strings.ToLower(err.Error()), reason)
		}
	})
	behaviour(t, "an id that is asked for is the process's, and cannot be taken twice", func(t *testing.T) {
		container := create(t, spec(t))
		asked := shell("sleep 1000")
		asked.ID = "my process"
		equal(t, "id", start(t, container, asked, garden.ProcessIO{}).ID(), "my process")
		_, err := container.Run(asked, garden.ProcessIO{})
		refused(t, err, "my process", "already in use")
		other := create(t, spec(t))
		equal(t, "in another container", start(t, other, asked, garden.ProcessIO{}).ID(), "my process")
	})
	behaviour(t, "processes without an id get different ones", func(t *testing.T) {
		container := create(t, spec(t))
		one, two := start(t, container, shell("true"), garden.ProcessIO{}), start(t, container, shell("true"), garden.ProcessIO{})
		if one.ID() == "" || one.ID() == two.ID() {
			t.Fatalf("%q and %q", one.ID(), two.ID())
		}
	})
	behaviour(t, "process ids that clients could not name in a URL are refused", func(t *testing.T) {
		container := create(t, spec(t))
		for _, id := range []string{"a/b", "a?b", "a#b", "a%b", "a,b", ".", "..", "a\nb", strings.Repeat("x", 1025)} {
			asked := shell("true")
			asked.ID = id
			_, err := container.Run(asked, garden.ProcessIO{})
			refused(t, err, "process id")
		}
	})
	behaviour(t, "a process cannot have bind mounts without an image of its own", func(t *testing.T) {
		container := create(t, spec(t))
		asked := shell("true")
		asked.BindMounts = []garden.BindMount{{SrcPath: "/tmp", DstPath: "/mnt"}}
		_, err := container.Run(asked, garden.ProcessIO{})
		refused(t, err, "bind mount")
	})
	behaviour(t, "every exit code arrives", func(t *testing.T) {
		container := create(t, spec(t))
		for code := range 256 {
			equal(t, "status", run(t, container, shell(fmt.Sprintf("exit %d", code))).status, code)
		}
	})
	behaviour(t, "a process that died of a signal has 128 and the signal as its status", func(t *testing.T) {
		container := create(t, spec(t))
		for _, signal := range []int{1, 2, 6, 9, 11, 13, 15} {
			equal(t, "status", run(t, container, shell(fmt.Sprintf("kill -%d $$; sleep 1000", signal))).status, 128+signal)
		}
	})
	behaviour(t, "TERM and KILL reach a process", func(t *testing.T) {
		container := create(t, spec(t))
		for signal, status := range map[garden.Signal]int{garden.SignalTerminate: 143, garden.SignalKill: 137} {
			process := start(t, container, garden.ProcessSpec{Path: "sleep", Args: []string{"1000"}}, garden.ProcessIO{})
			must(t, process.Signal(signal))
			equal(t, "status", wait(t, process), status)
		}
	})
	behaviour(t, "a process can handle TERM", func(t *testing.T) {
		container := create(t, spec(t))
		stdout := newBuffer()
		process := start(t, container, shell("trap 'echo got it; exit 3' TERM; echo on; while :; do sleep 0.05; done"),
			garden.ProcessIO{Stdout: stdout})
		stdout.awaits(t, "on\n")
		must(t, process.Signal(garden.SignalTerminate))
		equal(t, "status", wait(t, process), 3)
		equal(t, "output", stdout.String(), "on\ngot it\n")
	})
	behaviour(t, "a signal reaches what the process started", func(t *testing.T) {
		container := create(t, spec(t))
		stdout := newBuffer()
		process := start(t, container, shell("sleep 1000; echo woke"), garden.ProcessIO{Stdout: stdout})
		must(t, process.Signal(garden.SignalTerminate))
		wait(t, process)
		eventually(t, patience, func() error {
			if left := strings.TrimSpace(sh(t, container, "pidof sleep || true")); left != "" {
				return fmt.Errorf("still running: %s", left)
			}
			return nil
		})
	})
	behaviour(t, "100 processes at the same time in one container have each their own output and status", func(t *testing.T) {
		container := create(t, spec(t))
		for i, err := range parallel(100, func(i int) error {
			stdout, stderr := newBuffer(), newBuffer()
			process, err := container.Run(shell(fmt.Sprintf("echo out %d; echo err %d >&2; exit %d", i, i, i)),
				garden.ProcessIO{Stdout: stdout, Stderr: stderr})
			if err != nil {
				return err
			}
			status, err := waited(process, patience)
			if err != nil {
				return err
			}
			if status != i || stdout.String() != fmt.Sprintf("out %d\n", i) || stderr.String() != fmt.Sprintf("err %d\n", i) {
				return fmt.Errorf("status %d, stdout %q, stderr %q", status, stdout, stderr)
			}
			return nil
		}) {
			if err != nil {
				t.Errorf("process %d: %v", i, err)
			}
		}
	})
	behaviour(t, "a large environment arrives whole", func(t *testing.T) {
		container := create(t, spec(t))
		process := shell("env | grep ^BIG | sort -t_ -k2n | sha256sum; env | grep -c ^BIG")
		for i := range 12 {
			process.Env = append(process.Env, fmt.Sprintf("BIG_%d=%s", i, strings.Repeat("x", 100<<10)))
		}
		holds(t, run(t, container, process).stdout, "12\n")
	})
	behaviour(t, "an environment beyond what the kernel takes is refused with a reason, and hurts nobody", func(t *testing.T) {
		container := create(t, spec(t))
		process := shell("true")
		for i := range 100 {
			process.Env = append(process.Env, fmt.Sprintf("BIG_%d=%s", i, strings.Repeat("x", 100<<10)))
		}
		_, err := container.Run(process, garden.ProcessIO{})
		refused(t, err)
		process = shell("true")
		process.Env = []string{"ONE=" + strings.Repeat("x", 200<<10)}
		_, err = container.Run(process, garden.ProcessIO{})
		refused(t, err)
		equal(t, "afterwards", sh(t, container, "echo fine"), "fine\n")
	})
	behaviour(t, "resource limits are set, soft and hard alike", func(t *testing.T) {
		container := create(t, spec(t))
		process := shell("ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc; ulimit -Sf")
		files, core, size := uint64(123), uint64(0), uint64(512*100)
		process.Limits = garden.ResourceLimits{Nofile: &files, Core: &core, Fsize: &size}
		equal(t, "limits", run(t, container, process).stdout, "123\n123\n0\n0\n100\n")
	})
	behaviour(t, "a resource limit beyond the node's ceiling is refused by its name", func(t *testing.T) {
		container := create(t, spec(t))
		process := shell("true")
		files := uint64(1) << 40
		process.Limits.Nofile = &files
		_, err := container.Run(process, garden.ProcessIO{})
		refused(t, err)
		holds(t, strings.ToLower(err.Error()), "nofile")
	})
	behaviour(t, "orphans are reaped", func(t *testing.T) {
		container := create(t, spec(t))
		sh(t, container, "for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.01 &) ; done")
		eventually(t, patience, func() error {
			if left := sh(t, container, "cat /proc/[0-9]*/stat 2>/dev/null | grep -cE '\\) Z ' || true"); left != "0\n" {
				return fmt.Errorf("zombies: %s", left)
			}
			return nil
		})
	})
	behaviour(t, "a process that ends while something of it stays in the background is reported at once", func(t *testing.T) {
		container := create(t, spec(t))
		begin := time.Now()
		result := run(t, container, shell("sleep 1000 & echo main; exit 4"))
		equal(t, "output", result.stdout, "main\n")
		equal(t, "status", result.status, 4)
		if took := time.Since(begin); took > 5*time.Second {
			t.Fatalf("took %v", took)
		}
		// It may not have become sleep yet.
		eventually(t, patience, func() error {
			if seen := sh(t, container, "pidof sleep | wc -w"); seen != "1\n" {
				return fmt.Errorf("the other does not go on: %q", seen)
			}
			return nil
		})
	})
}
