package garden_test

import (
	"errors"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"
)

func TestStop(t *testing.T) {
	behaviour(t, "stop asks the processes to end, and the state tells", func(t *testing.T) {
		container := create(t, spec(t))
		stdout := newBuffer()
		process := start(t, container, shell("trap 'echo asked; exit 5' TERM; echo on; while :; do sleep 0.05; done"),
			garden.ProcessIO{Stdout: stdout})
		stdout.awaits(t, "on")
		must(t, container.Stop(false))
		equal(t, "status", wait(t, process), 5)
		holds(t, stdout.String(), "asked")
		info, err := container.Info()
		must(t, err)
		equal(t, "state", info.State, "stopped")
		equal(t, "processes", len(info.ProcessIDs), 0)
	})
	behaviour(t, "stop with kill ends what would not go", func(t *testing.T) {
		container := create(t, spec(t))
		stdout := newBuffer()
		process := start(t, container, shell("trap '' TERM; echo on; while :; do sleep 0.05; done"), garden.ProcessIO{Stdout: stdout})
		stdout.awaits(t, "on")
		begin := time.Now()
		must(t, container.Stop(true))
		equal(t, "status", wait(t, process), 137)
		if took := time.Since(begin); took > 5*time.Second {
			t.Fatalf("took %v", took)
		}
	})
	long(t, "stop kills after its grace what would not go", func(t *testing.T) {
		container := create(t, spec(t))
		stdout := newBuffer()
		process := start(t, container, shell("trap '' TERM; echo on; while :; do sleep 0.05; done"), garden.ProcessIO{Stdout: stdout})
		stdout.awaits(t, "on")
		begin := time.Now()
		must(t, container.Stop(false))
		equal(t, "status", wait(t, process), 137)
		if took := time.Since(begin); took < 9*time.Second || took > 20*time.Second {
			t.Fatalf("took %v", took)
		}
	})
	behaviour(t, "a stop with kill takes effect while one without waits, and both are answered", func(t *testing.T) {
		container := create(t, spec(t))
		stdout := newBuffer()
		process := start(t, container, shell("trap 'echo asked' TERM; echo on; while :; do sleep 0.05; done"), garden.ProcessIO{Stdout: stdout})
		stdout.awaits(t, "on")
		first := make(chan error, 1)
		begin := time.Now()
		go func() { first <- container.Stop(false) }()
		stdout.awaits(t, "asked")
		must(t, container.Stop(true))
		must(t, <-first)
		if took := time.Since(begin); took > 5*time.Second {
			t.Fatalf("took %v", took)
		}
		equal(t, "status", wait(t, process), 137)
	})
	behaviour(t, "stop ends background processes and orphans too", func(t *testing.T) {
		container := create(t, spec(t))
		sh(t, container, "sleep 1000 >/dev/null 2>&1 & (sleep 1000 >/dev/null 2>&1 &) ; setsid sleep 1000 >/dev/null 2>&1 &")
		must(t, container.Stop(false))
		equal(t, "left", sh(t, container, "pidof sleep || echo none"), "none\n")
	})
	behaviour(t, "a stopped container can run processes again", func(t *testing.T) {
		container := create(t, spec(t))
		sh(t, container, "echo kept >/mark")
		must(t, container.Stop(false))
		equal(t, "output", sh(t, container, "cat /mark"), "kept\n")
	})
	behaviour(t, "stop of an empty container is answered at once, and a second stop too", func(t *testing.T) {
		container := create(t, spec(t))
		begin := time.Now()
		must(t, container.Stop(false))
		must(t, container.Stop(false))
		must(t, container.Stop(true))
		if took := time.Since(begin); took > 5*time.Second {
			t.Fatalf("took %v", took)
		}
	})
	behaviour(t, "stop tells the clients that are attached how their process ended", func(t *testing.T) {
		container := create(t, spec(t))
		process := start(t, container, garden.ProcessSpec{Path: "sleep", Args: []string{"1000"}}, garden.ProcessIO{})
		attached, _ := attach(t, container, process.ID())
		must(t, container.Stop(false))
		equal(t, "status of the one", wait(t, process), 143)
		equal(t, "status of the other", wait(t, attached), 143)
	})
	behaviour(t, "destroy does not wait for a stop", func(t *testing.T) {
		container := create(t, spec(t))
		stdout := newBuffer()
		start(t, container, shell("trap 'echo asked' TERM; echo on; while :; do sleep 0.05; done"), garden.ProcessIO{Stdout: stdout})
		stdout.awaits(t, "on")
		stopped := make(chan error, 1)
		go func() { stopped <- container.Stop(false) }()
		stdout.awaits(t, "asked")
		begin := time.Now()
		must(t, gard.Destroy(container.Handle()))
		if took := time.Since(begin); took > 5*time.Second {
			t.Fatalf("took %v", took)
		}
		select {
		case <-stopped:
		case <-time.After(patience):
			t.Fatal("the stop was never answered")
		}
	})
}

func TestGraceTime(t *testing.T) {
	gone := func(handle string) func() error {
		return func() error {
			_, err := gard.Lookup(handle)
			switch {
			case errors.As(err, new(garden.ContainerNotFoundError)):
				return nil
			case err != nil:
				return err
			default:
				return errors.New("still there")
			}
		}
	}
	behaviour(t, "a container that nobody uses is destroyed when its grace time is over", func(t *testing.T) {
		asked := spec(t)
		asked.GraceTime = 3 * time.Second
		begin := time.Now()
		create(t, asked)
		equal(t, "listed", listed(t, asked.Handle), true)
		eventually(t, 15*time.Second, gone(asked.Handle))
		if took := time.Since(begin); took < 3*time.Second {
			t.Fatalf("gone after %v already", took)
		}
		asked.GraceTime = 0
		create(t, asked)
	})
	behaviour(t, "a container with a process that is watched is in use", func(t *testing.T) {
		asked := spec(t)
		asked.GraceTime = time.Second
		container := create(t, asked)
		process := start(t, container, shell("sleep 4; exit 6"), garden.ProcessIO{})
		equal(t, "status", wait(t, process), 6)
		eventually(t, 15*time.Second, gone(asked.Handle))
	})
	behaviour(t, "requests restart the count", func(t *testing.T) {
		asked := spec(t)
		asked.GraceTime = 3 * time.Second
		container := create(t, asked)
		for range 8 {
			time.Sleep(500 * time.Millisecond)
			_, err := container.Info()
			must(t, err)
		}
		eventually(t, 15*time.Second, gone(asked.Handle))
	})
	behaviour(t, "setting it counts from then on", func(t *testing.T) {
		container := create(t, spec(t))
		must(t, container.SetGraceTime(time.Second))
		eventually(t, 15*time.Second, gone(container.Handle()))
	})
	behaviour(t, "setting it to zero ends it", func(t *testing.T) {
		asked := spec(t)
		asked.GraceTime = 4 * time.Second
		container := create(t, asked)
		must(t, container.SetGraceTime(0))
		time.Sleep(6 * time.Second)
		equal(t, "listed", listed(t, asked.Handle), true)
	})
	behaviour(t, "a container that names none has the server's, and one that names its own has that", func(t *testing.T) {
		short := own(t, "--default-grace-time", "1s", "--pool-size", "0")
		none := createOn(t, short, spec(t))
		named := spec(t)
		named.GraceTime = time.Hour
		createOn(t, short, named)
		eventually(t, 15*time.Second, func() error {
			if _, err := short.Lookup(none.Handle()); !errors.As(err, new(garden.ContainerNotFoundError)) {
				return errors.New("still there")
			}
			return nil
		})
		_, err := short.Lookup(named.Handle)
		must(t, err)
	})
}
