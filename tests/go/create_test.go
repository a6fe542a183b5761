package garden_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"code.cloudfoundry.org/garden"
)

func TestCreateAndDestroy(t *testing.T) {
	behaviour(t, "a container is in the list from its create to its destroy", func(t *testing.T) {
		container := create(t, spec(t))
		equal(t, "listed", listed(t, container.Handle()), true)
		must(t, gard.Destroy(container.Handle()))
		equal(t, "listed", listed(t, container.Handle()), false)
	})
	behaviour(t, "lookup finds a container by its handle", func(t *testing.T) {
		container := create(t, spec(t))
		found, err := gard.Lookup(container.Handle())
		must(t, err)
		equal(t, "handle", found.Handle(), container.Handle())
	})
	behaviour(t, "lookup of an unknown handle says so", func(t *testing.T) {
		_, err := gard.Lookup(unique("unknown"))
		if !errors.As(err, new(garden.ContainerNotFoundError)) {
			t.Fatalf("%T %v", err, err)
		}
	})
	behaviour(t, "a container without a handle gets one that nobody else has", func(t *testing.T) {
		one, two := spec(t), spec(t)
		one.Handle, two.Handle = "", ""
		first, second := create(t, one), create(t, two)
		if first.Handle() == "" || first.Handle() == second.Handle() {
			t.Fatalf("%q and %q", first.Handle(), second.Handle())
		}
	})
	behaviour(t, "a handle in use is refused and its container is left as it was", func(t *testing.T) {
		asked := spec(t)
		container := create(t, asked)
		_, err := gard.Create(asked)
		refused(t, err, fmt.Sprintf("Handle '%s' already in use", asked.Handle))
		equal(t, "output", sh(t, container, "echo still here"), "still here\n")
	})
	behaviour(t, "a handle can be used again as soon as its container was destroyed", func(t *testing.T) {
		asked := spec(t)
		for round := range 10 {
			_, err := gard.Create(asked)
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			must(t, gard.Destroy(asked.Handle))
		}
	})
	behaviour(t, "handles that clients could not name in a URL are refused", func(t *testing.T) {
		for _, handle := range []string{
			"a/b", "a?b", "a#b", "a%b", "a%2fb", "a,b", ".", "..", "a\nb", "a\x7fb", strings.Repeat("x", 1025),
		} {
			asked := spec(t)
			asked.Handle = handle
			_, err := gard.Create(asked)
			refused(t, err, "handle")
			equal(t, "listed", listed(t, handle), false)
		}
	})
	behaviour(t, "unusual handles that a URL can carry are kept as they are", func(t *testing.T) {
		for _, handle := range []string{
			unique("a b"), unique("ünï"), unique("a:b@c+d;e"), unique("a&b=c"), unique("\"q\"'"), "...",
			unique(strings.Repeat("x", 1000)),
		} {
			asked := spec(t)
			asked.Handle = handle
			container := create(t, asked)
			equal(t, "output", sh(t, container, "echo here"), "here\n")
			info, err := gard.BulkInfo([]string{handle})
			must(t, err)
			if entry, found := info[handle]; !found || entry.Err != nil {
				t.Fatalf("%q is not in the bulk info: %v", handle, info)
			}
			must(t, gard.Destroy(handle))
		}
	})
	behaviour(t, "destroy of an unknown handle says which", func(t *testing.T) {
		handle := unique("unknown")
		err := gard.Destroy(handle)
		var unknown garden.ContainerNotFoundError
		if !errors.As(err, &unknown) {
			t.Fatalf("%T %v", err, err)
		}
		equal(t, "handle", unknown.Handle, handle)
	})
	behaviour(t, "a second destroy finds nothing", func(t *testing.T) {
		container := create(t, spec(t))
		must(t, gard.Destroy(container.Handle()))
		if err := gard.Destroy(container.Handle()); !errors.As(err, new(garden.ContainerNotFoundError)) {
			t.Fatalf("%T %v", err, err)
		}
	})
	behaviour(t, "of several destroys at the same time one does it and the others say why not", func(t *testing.T) {
		container := create(t, spec(t))
		errs := parallel(5, func(int) error { return gard.Destroy(container.Handle()) })
		done := 0
		for _, err := range errs {
			switch {
			case err == nil:
				done++
			case errors.As(err, new(garden.ContainerNotFoundError)):
			default:
				refused(t, err, "already being destroyed")
			}
		}
		equal(t, "destroys that did it", done, 1)
	})
	behaviour(t, "destroy ends a container whose processes ignore every polite signal", func(t *testing.T) {
		container := create(t, spec(t))
		stdout := newBuffer()
		start(t, container, shell("trap '' TERM HUP INT; echo on; while :; do sleep 1; done"), garden.ProcessIO{Stdout: stdout})
		stdout.awaits(t, "on")
		must(t, gard.Destroy(container.Handle()))
	})
	behaviour(t, "destroy tells the clients that were attached", func(t *testing.T) {
		container := create(t, spec(t))
		stdout := newBuffer()
		process := start(t, container, shell("echo on; sleep 1000"), garden.ProcessIO{Stdout: stdout, Stderr: newBuffer()})
		stdout.awaits(t, "on")
		must(t, gard.Destroy(container.Handle()))
		status, err := waited(process, patience)
		if errors.Is(err, errTooLong) || err == nil && status == 0 {
			t.Fatalf("status %d, %v", status, err)
		}
	})
	behaviour(t, "nothing answers for a container that was destroyed", func(t *testing.T) {
		container := create(t, spec(t))
		must(t, gard.Destroy(container.Handle()))
		_, runErr := container.Run(shell("true"), garden.ProcessIO{})
		_, attachErr := container.Attach("any", garden.ProcessIO{})
		_, infoErr := container.Info()
		_, propertiesErr := container.Properties()
		for _, err := range []error{
			runErr, attachErr, infoErr, propertiesErr, container.Stop(false), container.SetGraceTime(0),
			container.SetProperty("k", "v"), container.RemoveProperty("k"),
		} {
			var unknown garden.ContainerNotFoundError
			if !errors.As(err, &unknown) {
				t.Errorf("%T %v", err, err)
			} else if unknown.Handle != container.Handle() {
				t.Errorf("named %q", unknown.Handle)
			}
		}
	})
	behaviour(t, "clients that create at the same time all get their container", func(t *testing.T) {
		specs := make([]garden.ContainerSpec, 16)
		for i := range specs {
			specs[i] = spec(t)
			t.Cleanup(func() { destroyOn(t, gard, specs[i].Handle) })
		}
		for i, err := range parallel(len(specs), func(i int) error {
			container, err := gard.Create(specs[i])
			if err != nil {
				return err
			}
			process, err := container.Run(shell("exit 7"), garden.ProcessIO{})
			if err != nil {
				return err
			}
			if status, err := waited(process, patience); err != nil || status != 7 {
				return fmt.Errorf("status %d, %w", status, err)
			}
			return gard.Destroy(specs[i].Handle)
		}) {
			if err != nil {
				t.Errorf("container %d: %v", i, err)
			}
		}
	})
	behaviour(t, "of creates of one handle at the same time one succeeds", func(t *testing.T) {
		asked := spec(t)
		t.Cleanup(func() { destroyOn(t, gard, asked.Handle) })
		made := 0
		for _, err := range parallel(8, func(int) error { _, err := gard.Create(asked); return err }) {
			if err == nil {
				made++
			} else {
				refused(t, err, "already in use")
			}
		}
		equal(t, "creates that succeeded", made, 1)
	})
	behaviour(t, "the list holds while containers come and go", func(t *testing.T) {
		stays := create(t, spec(t))
		stop := make(chan struct{})
		var listing sync.WaitGroup
		listing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				containers, err := gard.Containers(nil)
				if err != nil {
					t.Errorf("list: %v", err)
					return
				}
				found := false
				for _, container := range containers {
					found = found || container.Handle() == stays.Handle()
				}
				if !found {
					t.Errorf("a container that stays was not listed")
					return
				}
			}
		})
		for range 5 {
			asked := spec(t)
			_, err := gard.Create(asked)
			must(t, err)
			must(t, gard.Destroy(asked.Handle))
		}
		close(stop)
		listing.Wait()
	})
}

func TestLimits(t *testing.T) {
	behaviour(t, "a create above the limit is refused, and one is possible again after a destroy", func(t *testing.T) {
		few := own(t, "--max-containers", "3")
		var handles []string
		for range 3 {
			handles = append(handles, createOn(t, few, spec(t)).Handle())
		}
		_, err := few.Create(spec(t))
		refused(t, err, "limit", "3")
		must(t, few.Destroy(handles[0]))
		createOn(t, few, spec(t))
	})
	long(t, "creates at the same time never pass the limit and never stay below it", func(t *testing.T) {
		few := own(t, "--max-containers", "10", "--pool-size", "0")
		folder := root(t, false)
		errs := parallel(50, func(i int) error {
			_, err := few.Create(garden.ContainerSpec{
				Handle: fmt.Sprintf("c%d", i), Image: garden.ImageRef{URI: "raw://" + folder},
			})
			return err
		})
		made := 0
		for _, err := range errs {
			if err == nil {
				made++
			} else {
				refused(t, err, "limit", "10")
			}
		}
		equal(t, "containers made", made, 10)
		containers, err := few.Containers(nil)
		must(t, err)
		equal(t, "containers listed", len(containers), 10)
		for _, container := range containers {
			must(t, few.Destroy(container.Handle()))
		}
	})
	behaviour(t, "capacity tells the machine's memory and disk and the limit", func(t *testing.T) {
		capacity, err := gard.Capacity()
		must(t, err)
		if capacity.MemoryInBytes < 64<<20 || capacity.DiskInBytes < 64<<20 || capacity.SchedulableDiskInBytes == 0 {
			t.Fatalf("%+v", capacity)
		}
		if capacity.SchedulableDiskInBytes > capacity.DiskInBytes {
			t.Fatalf("more disk to schedule than there is: %+v", capacity)
		}
		equal(t, "containers", capacity.MaxContainers, 100)
	})
	behaviour(t, "ping is answered", func(t *testing.T) {
		must(t, gard.Ping())
	})
}

// parallel does something n times at once and returns every outcome.
func parallel(n int, do func(i int) error) []error {
	errs := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { errs[i] = do(i) })
	}
	group.Wait()
	return errs
}
