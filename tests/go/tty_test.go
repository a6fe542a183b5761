package garden_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"
)

func terminal(script string) garden.ProcessSpec {
	spec := shell(script)
	spec.TTY = &garden.TTYSpec{}
	return spec
}

func TestTerminal(t *testing.T) {
	behaviour(t, "all three descriptors are one terminal, and it is the process's own", func(t *testing.T) {
		container := create(t, spec(t))
		result := run(t, container, terminal("test -t 0 && test -t 1 && test -t 2 && tty && echo yes >/dev/tty"))
		holds(t, result.stdout, "/dev/pts/", "yes")
		equal(t, "status", result.status, 0)
	})
	behaviour(t, "without a terminal there is none", func(t *testing.T) {
		result := run(t, create(t, spec(t)), shell("test -t 0 || test -t 1 || test -t 2 || echo none"))
		equal(t, "output", result.stdout, "none\n")
	})
	behaviour(t, "its size is 80 by 24 unless asked otherwise", func(t *testing.T) {
		container := create(t, spec(t))
		equal(t, "default", run(t, container, terminal("stty size")).stdout, "24 80\r\n")
		asked := terminal("stty size")
		asked.TTY.WindowSize = &garden.WindowSize{Columns: 123, Rows: 45}
		equal(t, "as asked", run(t, container, asked).stdout, "45 123\r\n")
	})
	behaviour(t, "a new size reaches the process as a signal", func(t *testing.T) {
		stdout := newBuffer()
		process := start(t, create(t, spec(t)), terminal("trap 'stty size; exit 0' WINCH; echo on; while :; do sleep 0.05; done"),
			garden.ProcessIO{Stdout: stdout})
		stdout.awaits(t, "on")
		must(t, process.SetTTY(garden.TTYSpec{WindowSize: &garden.WindowSize{Columns: 200, Rows: 50}}))
		stdout.awaits(t, "50 200")
		equal(t, "status", wait(t, process), 0)
	})
	behaviour(t, "it starts as terminals do, with line ends made whole on output", func(t *testing.T) {
		container := create(t, spec(t))
		equal(t, "output", run(t, container, terminal("printf 'a\\nb'")).stdout, "a\r\nb")
		settings := run(t, container, terminal("stty -a")).stdout
		holds(t, settings, "icanon", "echo", "isig", "icrnl", "onlcr")
		for _, off := range []string{"-icanon", "-echo ", "-isig", "-icrnl", "-onlcr"} {
			if strings.Contains(settings, off) {
				t.Errorf("%s in %s", off, settings)
			}
		}
	})
	behaviour(t, "input is echoed, and Ctrl-C interrupts", func(t *testing.T) {
		reader, writer := io.Pipe()
		stdout := newBuffer()
		process := start(t, create(t, spec(t)), terminal("echo on; cat"), garden.ProcessIO{Stdin: reader, Stdout: stdout})
		stdout.awaits(t, "on\r\n")
		_, err := writer.Write([]byte("typed\r"))
		must(t, err)
		stdout.awaits(t, "typed\r\ntyped\r\n")
		_, err = writer.Write([]byte{3})
		must(t, err)
		equal(t, "status", wait(t, process), 130)
	})
	behaviour(t, "what goes to stderr comes out of stdout", func(t *testing.T) {
		result := run(t, create(t, spec(t)), terminal("echo out; echo err >&2"))
		equal(t, "stdout", result.stdout, "out\r\nerr\r\n")
		equal(t, "stderr", result.stderr, "")
	})
	behaviour(t, "the end of a client's input is not the end of the terminal", func(t *testing.T) {
		stdout := newBuffer()
		process := start(t, create(t, spec(t)), terminal("echo on; head -c 1; sleep 1000"),
			garden.ProcessIO{Stdin: strings.NewReader("x"), Stdout: stdout})
		stdout.awaits(t, "x")
		if status, err := waited(process, 500*time.Millisecond); !errors.Is(err, errTooLong) {
			t.Fatalf("ended: %d, %v", status, err)
		}
		must(t, process.Signal(garden.SignalKill))
		equal(t, "status", wait(t, process), 137)
	})
	behaviour(t, "a client that goes away does not hang the terminal up", func(t *testing.T) {
		container := create(t, spec(t))
		other, dialer := cuttable()
		stdout := newBuffer()
		process := start(t, on(t, other, container), terminal("trap 'echo hung up; exit 1' HUP; echo on; while ! test -e /go; do sleep 0.05; done; echo went on"),
			garden.ProcessIO{Stdout: stdout})
		stdout.awaits(t, "on")
		dialer.Cut()
		time.Sleep(200 * time.Millisecond)
		again := newBuffer()
		attached, err := container.Attach(process.ID(), garden.ProcessIO{Stdout: again})
		must(t, err)
		sh(t, container, "touch /go")
		equal(t, "status", wait(t, attached), 0)
		holds(t, again.String(), "went on")
	})
	behaviour(t, "much output of a terminal is whole and in order", func(t *testing.T) {
		result := run(t, create(t, spec(t)), terminal("seq 1 100000"))
		var want strings.Builder
		for i := range 100_000 {
			fmt.Fprintf(&want, "%d\r\n", i+1)
		}
		if result.stdout != want.String() {
			t.Fatalf("%d bytes where %d were written", len(result.stdout), want.Len())
		}
	})
	behaviour(t, "the output of a terminal whose process ends at once is whole, every time", func(t *testing.T) {
		container := create(t, spec(t))
		for i := range 50 {
			if result := run(t, container, terminal("echo out")); result.stdout != "out\r\n" {
				t.Fatalf("round %d: %+v", i, result)
			}
		}
	})
	behaviour(t, "a terminal's user owns it", func(t *testing.T) {
		asked := terminal("stat -c %U $(tty); echo x >$(tty)")
		asked.User = "alice"
		equal(t, "owner", run(t, create(t, spec(t)), asked).stdout, "alice\r\nx\r\n")
	})
}
