package garden_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"
)

// attach attaches and collects stdout.
func attach(t *testing.T, container garden.Container, id string) (garden.Process, *buffer) {
	t.Helper()
	stdout := newBuffer()
	process, err := container.Attach(id, garden.ProcessIO{Stdout: stdout, Stderr: io.Discard})
	if err != nil {
		t.Fatalf("attach to %s: %v", id, err)
	}
	return process, stdout
}

func TestAttach(t *testing.T) {
	behaviour(t, "every attached client sees the output from its attach on, and the status", func(t *testing.T) {
		container := create(t, spec(t))
		first := newBuffer()
		process := start(t, container, shell("echo before; while ! test -e /go; do sleep 0.02; done; seq 1 20000; exit 3"),
			garden.ProcessIO{Stdout: first})
		first.awaits(t, "before\n")
		var clients []garden.Process
		var outputs []*buffer
		for range 5 {
			attached, output := attach(t, container, process.ID())
			equal(t, "id", attached.ID(), process.ID())
			clients, outputs = append(clients, attached), append(outputs, output)
		}
		sh(t, container, "touch /go")
		var numbers strings.Builder
		for i := range 20000 {
			fmt.Fprintln(&numbers, i+1)
		}
		equal(t, "status", wait(t, process), 3)
		equal(t, "the first client's output", first.String() == "before\n"+numbers.String(), true)
		for i := range clients {
			equal(t, "status", wait(t, clients[i]), 3)
			equal(t, fmt.Sprintf("output of client %d", i), outputs[i].String() == numbers.String(), true)
		}
	})
	behaviour(t, "a client may attach to a process that has ended, and again", func(t *testing.T) {
		container := create(t, spec(t))
		process := start(t, container, shell("echo nobody was here; exit 11"), garden.ProcessIO{})
		equal(t, "status", wait(t, process), 11)
		for range 3 {
			attached, _ := attach(t, container, process.ID())
			equal(t, "status", wait(t, attached), 11)
		}
	})
	behaviour(t, "a client that asks for the end twice gets the same answer", func(t *testing.T) {
		process := start(t, create(t, spec(t)), shell("exit 12"), garden.ProcessIO{})
		equal(t, "status", wait(t, process), 12)
		equal(t, "status", wait(t, process), 12)
	})
	behaviour(t, "an unknown process is said to be unknown, at once and by its name", func(t *testing.T) {
		container := create(t, spec(t))
		begin := time.Now()
		_, err := container.Attach("no-such-process", garden.ProcessIO{})
		var unknown garden.ProcessNotFoundError
		if !errors.As(err, &unknown) {
			t.Fatalf("%T %v", err, err)
		}
		equal(t, "process", unknown.ProcessID, "no-such-process")
		if took := time.Since(begin); took > time.Second {
			t.Fatalf("took %v", took)
		}
	})
	behaviour(t, "a process of another container is unknown", func(t *testing.T) {
		one, two := create(t, spec(t)), create(t, spec(t))
		asked := shell("sleep 1000")
		asked.ID = "task"
		start(t, one, asked, garden.ProcessIO{})
		if _, err := two.Attach("task", garden.ProcessIO{}); !errors.As(err, new(garden.ProcessNotFoundError)) {
			t.Fatalf("%T %v", err, err)
		}
	})
	behaviour(t, "a process goes on when its client goes away, and the next client gets what was written meanwhile", func(t *testing.T) {
		container := create(t, spec(t))
		other, dialer := cuttable()
		begin := newBuffer()
		process := start(t, on(t, other, container),
			shell("echo on; while ! test -e /go; do sleep 0.02; done; seq 1 50000; touch /wrote; while ! test -e /end; do sleep 0.02; done; echo last; exit 4"),
			garden.ProcessIO{Stdout: begin})
		begin.awaits(t, "on")
		dialer.Cut()
		if _, err := waited(process, patience); err == nil {
			t.Fatal("the cut client was told a status")
		}
		// The cut must have reached the server before there is output, or the first client still counts as a reader.
		time.Sleep(500 * time.Millisecond)
		sh(t, container, "touch /go; while ! test -e /wrote; do sleep 0.02; done")
		attached, output := attach(t, container, process.ID())
		sh(t, container, "touch /end")
		equal(t, "status", wait(t, attached), 4)
		var want strings.Builder
		for i := range 50000 {
			fmt.Fprintln(&want, i+1)
		}
		if seen := output.String(); seen != want.String()+"last\n" {
			t.Fatalf("%d bytes where %d were written; begins %.40q", len(seen), want.Len()+5, seen)
		}
	})
	behaviour(t, "what a process wrote while nobody was attached is there after its end", func(t *testing.T) {
		container := create(t, spec(t))
		other, dialer := cuttable()
		process := start(t, on(t, other, container), shell("while ! test -e /go; do sleep 0.02; done; seq 1 1000; exit 8"), garden.ProcessIO{})
		dialer.Cut()
		_, _ = waited(process, patience)
		time.Sleep(500 * time.Millisecond)
		sh(t, container, "touch /go")
		eventually(t, patience, func() error {
			info, err := container.Info()
			if err == nil && len(info.ProcessIDs) > 0 {
				err = fmt.Errorf("still runs: %v", info.ProcessIDs)
			}
			return err
		})
		attached, output := attach(t, container, process.ID())
		equal(t, "status", wait(t, attached), 8)
		equal(t, "lines", strings.Count(output.String(), "\n"), 1000)
	})
	behaviour(t, "a client that attaches again can go on with the input where it was", func(t *testing.T) {
		container := create(t, spec(t))
		other, dialer := cuttable()
		reader, writer := io.Pipe()
		stdout := newBuffer()
		process := start(t, on(t, other, container), garden.ProcessSpec{Path: "cat"}, garden.ProcessIO{Stdin: reader, Stdout: stdout})
		_, err := writer.Write([]byte("first\n"))
		must(t, err)
		stdout.awaits(t, "first\n")
		dialer.Cut()
		_, _ = waited(process, patience)

		again := newBuffer()
		attached, err := container.Attach(process.ID(), garden.ProcessIO{Stdin: strings.NewReader("second\n"), Stdout: again})
		must(t, err)
		equal(t, "status", wait(t, attached), 0)
		equal(t, "output", again.String(), "second\n")
	})
	behaviour(t, "an attached client can signal", func(t *testing.T) {
		container := create(t, spec(t))
		process := start(t, container, garden.ProcessSpec{Path: "sleep", Args: []string{"1000"}}, garden.ProcessIO{})
		attached, _ := attach(t, container, process.ID())
		must(t, attached.Signal(garden.SignalTerminate))
		equal(t, "status of the one", wait(t, attached), 143)
		equal(t, "status of the other", wait(t, process), 143)
	})
	behaviour(t, "an attached client can set the terminal's size", func(t *testing.T) {
		container := create(t, spec(t))
		stdout := newBuffer()
		process := start(t, container, terminal("trap 'stty size; exit 0' WINCH; echo on; while :; do sleep 0.05; done"),
			garden.ProcessIO{Stdout: stdout})
		stdout.awaits(t, "on")
		attached, _ := attach(t, container, process.ID())
		must(t, attached.SetTTY(garden.TTYSpec{WindowSize: &garden.WindowSize{Columns: 99, Rows: 33}}))
		equal(t, "status", wait(t, process), 0)
		holds(t, stdout.String(), "33 99")
	})
	behaviour(t, "a reader that stalls waits alone", func(t *testing.T) {
		asked := spec(t)
		sum := randomFile(t, filepath.Join(strings.TrimPrefix(asked.Image.URI, "raw://"), "data"), 4*mebibyte)
		container := create(t, asked)
		release := make(chan struct{})
		stalled := &stall{release: release, sum: newDigest()}
		process := start(t, container, shell("while ! test -e /go; do sleep 0.02; done; cat /data"), garden.ProcessIO{Stdout: stalled})
		seen := newDigest()
		attached, err := container.Attach(process.ID(), garden.ProcessIO{Stdout: seen})
		must(t, err)
		sh(t, container, "touch /go")
		equal(t, "status", wait(t, attached), 0)
		equal(t, "what the other saw", seen.String(), sum)
		close(release)
		equal(t, "status", wait(t, process), 0)
		equal(t, "what the stalled one saw in the end", stalled.sum.String(), sum)
	})
	behaviour(t, "one client's leaving takes nothing from another", func(t *testing.T) {
		container := create(t, spec(t))
		other, dialer := cuttable()
		begin := newBuffer()
		process := start(t, on(t, other, container), shell("echo on; while ! test -e /go; do sleep 0.02; done; seq 1 100000"), garden.ProcessIO{Stdout: begin})
		begin.awaits(t, "on")
		attached, output := attach(t, container, process.ID())
		must(t, os.WriteFile(filepath.Join(rootOf(t, container), "go"), nil, 0o644))
		output.awaits(t, "\n1000\n")
		dialer.Cut()
		equal(t, "status", wait(t, attached), 0)
		equal(t, "lines", strings.Count(output.String(), "\n"), 100000)
	})
}

// rootOf is the folder on the host that is a container's root.
func rootOf(t *testing.T, container garden.Container) string {
	t.Helper()
	roots.Lock()
	defer roots.Unlock()
	path, found := roots.of[container.Handle()]
	if !found {
		t.Fatalf("the root of %s was not noted", container.Handle())
	}
	return path
}
