package host_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"code.cloudfoundry.org/garden"
)

// daemon leaves a process behind that has left its group, its session and its parent, and writes its pid.
const daemon = "setsid sh -c 'sleep 1000 & echo $!' </dev/null 2>/dev/null"

func TestProcesses(t *testing.T) {
	both(t, "a process has its streams, its status and its folder", func(t *testing.T, s *server) {
		container := create(t, s, garden.ContainerSpec{Env: []string{"A=container", "B=container"}})
		seen := run(t, container, shell("cat; echo errors >&2; exit 7"), "to and fro")
		equal(t, "process", seen, ended{"to and fro", "errors\n", 7})
		spec := shell("pwd; echo $A $B; echo ${SECRET-none}; command -v ls >/dev/null")
		spec.Dir, spec.Env = "/some/where", []string{"B=process"}
		folder := path(t, container, "/some/where")
		seen = run(t, container, spec)
		equal(t, "process", seen, ended{folder + "\ncontainer process\nnone\n", "", 0})
		equal(t, "where nothing is said", sh(t, container, "pwd"), path(t, container, "")+"\n")
		out := shell("pwd")
		out.Dir = "/../../.."
		equal(t, "a folder above", run(t, container, out).stdout, path(t, container, "")+"\n")
	})
	both(t, "what cannot be started says why", func(t *testing.T, s *server) {
		container := create(t, s, garden.ContainerSpec{})
		_, err := container.Run(garden.ProcessSpec{Path: "no-such-program"}, garden.ProcessIO{})
		if !errors.As(err, new(garden.ExecutableNotFoundError)) {
			t.Fatalf("%T %v", err, err)
		}
		refused(t, err, "executable file not found in $PATH")
		ghost := shell("true")
		ghost.User = "no-such-user"
		_, err = container.Run(ghost, garden.ProcessIO{})
		refused(t, err, "unable to find user no-such-user")
		image := shell("true")
		image.Image.URI = "raw:///tmp"
		_, err = container.Run(image, garden.ProcessIO{})
		refused(t, err, "--backend host")
	})
	both(t, "root of a container is gardend's own user, and others are whom it may become", func(t *testing.T, s *server) {
		container := create(t, s, garden.ContainerSpec{})
		for _, user := range []string{"", "root", strconv.Itoa(int(s.user))} {
			spec := shell("id -u")
			spec.User = user
			equal(t, "user "+user, run(t, container, spec).stdout, fmt.Sprintln(s.user))
		}
		other := shell("id -u")
		other.User = "daemon"
		if s.user == root {
			equal(t, "another", run(t, container, other).stdout, "1\n")
			return
		}
		_, err := container.Run(other, garden.ProcessIO{})
		refused(t, err, "runs as uid 65534", "'daemon'")
	})
	both(t, "clients attach to what runs and to what has ended", func(t *testing.T, s *server) {
		container := create(t, s, garden.ContainerSpec{})
		reader, writer := io.Pipe()
		first, second := &buffer{}, &buffer{}
		process := start(t, container, shell("echo before; read line; echo $line; exit 3"),
			garden.ProcessIO{Stdin: reader, Stdout: first})
		first.awaits(t, "before\n")
		attached, err := container.Attach(process.ID(), garden.ProcessIO{Stdout: second})
		must(t, err)
		_, err = io.WriteString(writer, "after\n")
		must(t, err)
		equal(t, "status", wait(t, process), 3)
		equal(t, "status of the other", wait(t, attached), 3)
		equal(t, "output", first.String(), "before\nafter\n")
		equal(t, "output of the other", second.String(), "after\n")
		again, err := container.Attach(process.ID(), garden.ProcessIO{})
		must(t, err)
		equal(t, "status afterwards", wait(t, again), 3)
		_, err = container.Attach("nobody", garden.ProcessIO{})
		if !errors.As(err, new(garden.ProcessNotFoundError)) {
			t.Fatalf("%T %v", err, err)
		}
	})
	both(t, "signals reach a process and what it started", func(t *testing.T, s *server) {
		container := create(t, s, garden.ContainerSpec{})
		for signal, status := range map[garden.Signal]int{garden.SignalTerminate: 143, garden.SignalKill: 137} {
			output := &buffer{}
			process := start(t, container, shell("sleep 1000 & echo $!; wait"), garden.ProcessIO{Stdout: output})
			output.awaits(t, "\n")
			child, err := strconv.Atoi(strings.TrimSpace(output.String()))
			must(t, err)
			must(t, process.Signal(signal))
			equal(t, "status", wait(t, process), status)
			eventually(t, func() error {
				if isAlive(child) {
					return errors.New("its child runs")
				}
				return nil
			})
		}
	})
	both(t, "a terminal has a size, and a new one reaches the process", func(t *testing.T, s *server) {
		container := create(t, s, garden.ContainerSpec{})
		spec := shell("test -t 0 && test -t 1 && trap 'stty size; exit 5' WINCH; stty size; while :; do sleep 0.05; done")
		spec.TTY = &garden.TTYSpec{WindowSize: &garden.WindowSize{Columns: 123, Rows: 45}}
		output := &buffer{}
		process := start(t, container, spec, garden.ProcessIO{Stdout: output})
		output.awaits(t, "45 123\r\n")
		must(t, process.SetTTY(garden.TTYSpec{WindowSize: &garden.WindowSize{Columns: 200, Rows: 50}}))
		output.awaits(t, "50 200\r\n")
		equal(t, "status", wait(t, process), 5)
	})
	both(t, "a stop ends everything, daemons too, and lets those go in peace who can", func(t *testing.T, s *server) {
		container := create(t, s, garden.ContainerSpec{})
		pid, err := strconv.Atoi(strings.TrimSpace(sh(t, container, daemon)))
		must(t, err)
		output := &buffer{}
		process := start(t, container, shell("trap 'exit 7' TERM; echo on; while :; do sleep 0.05; done"),
			garden.ProcessIO{Stdout: output})
		output.awaits(t, "on\n")
		equal(t, "daemon", isAlive(pid), true)
		must(t, container.Stop(false))
		equal(t, "status", wait(t, process), 7)
		equal(t, "daemon", isAlive(pid), false)
		info, err := container.Info()
		must(t, err)
		equal(t, "state", info.State, "stopped")
		stubborn := start(t, container, shell("trap '' TERM; while :; do sleep 0.05; done"), garden.ProcessIO{})
		must(t, container.Stop(true))
		equal(t, "status of one that does not listen", wait(t, stubborn), 137)
	})
	both(t, "a destroy ends everything, daemons too, and leaves nothing", func(t *testing.T, s *server) {
		container := create(t, s, garden.ContainerSpec{})
		pid, err := strconv.Atoi(strings.TrimSpace(sh(t, container, daemon)))
		must(t, err)
		sh(t, container, "mkdir -p closed/deep && touch closed/deep/file && chmod 500 closed/deep closed")
		folder := path(t, container, "")
		must(t, s.Destroy(container.Handle()))
		equal(t, "daemon", isAlive(pid), false)
		eventually(t, s.leftovers)
		if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("%s is there: %v", folder, err)
		}
		_, err = s.Lookup(container.Handle())
		if !errors.As(err, new(garden.ContainerNotFoundError)) {
			t.Fatalf("%T %v", err, err)
		}
	})
	both(t, "processes outlive gardend, and their output and statuses too", func(t *testing.T, s *server) {
		container := create(t, s, garden.ContainerSpec{Properties: garden.Properties{"kept": "yes"}})
		fifo := filepath.Join(path(t, container, ""), "fifo")
		sh(t, container, "mkfifo fifo")
		running := start(t, container, shell("echo one; cat fifo; echo three; exit 9"), garden.ProcessIO{})
		ended := start(t, container, shell("exit 4"), garden.ProcessIO{})
		s.kill()
		s.start(t)
		container, err := s.Lookup(container.Handle())
		must(t, err)
		kept, err := container.Property("kept")
		must(t, err)
		equal(t, "property", kept, "yes")
		output := &buffer{}
		process, err := container.Attach(running.ID(), garden.ProcessIO{Stdout: output})
		must(t, err)
		must(t, os.WriteFile(fifo, []byte("two\n"), 0))
		equal(t, "status", wait(t, process), 9)
		equal(t, "output", output.String(), "one\ntwo\nthree\n")
		over, err := container.Attach(ended.ID(), garden.ProcessIO{})
		must(t, err)
		equal(t, "status of the one that ended", wait(t, over), 4)
		equal(t, "a new one", sh(t, container, "echo new"), "new\n")
	})
	both(t, "an init that is killed takes nobody along who is not found", func(t *testing.T, s *server) {
		container := create(t, s, garden.ContainerSpec{})
		pid, err := strconv.Atoi(strings.TrimSpace(sh(t, container, daemon)))
		must(t, err)
		info, err := container.Info()
		must(t, err)
		noted, err := os.ReadFile(filepath.Join(info.ContainerPath, "init.pid"))
		must(t, err)
		init, err := strconv.Atoi(strings.Fields(string(noted))[0])
		must(t, err)
		process, err := os.FindProcess(init)
		must(t, err)
		must(t, process.Kill())
		eventually(t, func() error {
			if isAlive(pid) {
				return errors.New("the orphan runs")
			}
			return nil
		})
		eventually(t, func() error {
			_, err := container.Run(shell("true"), garden.ProcessIO{})
			return err
		})
	})
}
