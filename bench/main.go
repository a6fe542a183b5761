// Command bench measures what a Garden client waits for, with the client that Concourse and Cloud Foundry use, and
// beside it, in turns with it, what the same costs straight on the same containerd with the same runtime: the floor.
//
// It starts four gardends of its own: one without blank places kept ready (pool 0), one with them, one without blank
// places and without networks, and one that pulls images. Their times are those of the Go client's calls; a process's is from Run to the
// answer of Wait. It ends non-zero where gardend misses a bar, and leaves nothing behind. GARDEND_BIN names the program.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/garden/client"
	"code.cloudfoundry.org/garden/client/connection"

	"github.com/gardend/gardend/tests/go/harness"
)

func main() {
	rounds := flag.Int("rounds", 60, "rounds of every measurement")
	live := flag.Int("live", 250, "containers that live while list and bulk_info are measured")
	flag.Parse()
	// The packet filter's rules and the links are the bench's own.
	if err := harness.OwnNetwork(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	missed, err := run(*rounds, *live)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if missed {
		os.Exit(1)
	}
}

// bench holds what the measurements share.
type bench struct {
	report report
	// Root file systems, owned by an unprivileged container's root and by the host's.
	root, privileged string
	next             int
}

// node is a gardend under measurement.
type node struct {
	client.Client
	server *harness.Server
}

func run(rounds, live int) (missed bool, err error) {
	folder, err := os.MkdirTemp("", "gb")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(folder)
	// The root of a user namespace has to pass through.
	if err := os.Chmod(folder, 0o711); err != nil {
		return false, err
	}
	rootfs, err := harness.NewRootfs(filepath.Join(folder, "template"))
	if err != nil {
		return false, err
	}
	base, err := rootfs.Tar()
	if err != nil {
		return false, err
	}
	b := &bench{root: filepath.Join(folder, "root"), privileged: rootfs.Folder()}
	if err := rootfs.Copy(b.root, harness.MappedRoot); err != nil {
		return false, err
	}

	cold, err := start("--pool-size", "0", "--max-containers", fmt.Sprint(live+100))
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, cold.server.TearDown()) }()
	warm, err := start("--pool-size", "12", "--max-containers", fmt.Sprint(live+100))
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, warm.server.TearDown()) }()
	alone, err := start("--pool-size", "0", "--network", "none")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, alone.server.TearDown()) }()
	floor, err := newFloor(cold.server, rootfs.Folder(), b.root)
	if err != nil {
		return false, err
	}
	defer floor.close()

	steps := []func() error{
		func() error { return b.inTurns(rounds, floor, cold, warm) },
		func() error { return b.output(cold, 8) },
		func() error { return b.files(cold, 12) },
		func() error { return b.limited(cold, rounds) },
		func() error { return b.networked(cold, warm, alone, rounds) },
		func() error { return b.pulls(folder, base, max(1, rounds/6)) },
		func() error { return b.crowd("8 clients create 100, pool 0", cold, 8, 100) },
		func() error { return b.crowd("8 clients create 12, out of a pool of 12", warm, 8, 12) },
		func() error { return b.manyLive(cold, live, rounds) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return false, err
		}
	}
	b.report.print(os.Stdout)
	return b.report.check(os.Stdout), nil
}

func start(arguments ...string) (*node, error) {
	server, err := harness.Start(harness.Options{Arguments: append(arguments, "--log-level", "warn")})
	if err != nil {
		return nil, err
	}
	return &node{Client: client.New(connection.New("tcp", server.Address)), server: server}, nil
}

// inTurns measures one life of a container at a time: on the floor, without a pool, with one.
func (b *bench) inTurns(rounds int, floor *floor, cold, warm *node) error {
	ctx := context.Background()
	for round := range rounds + 2 {
		// The first two warm caches up.
		record := b.report.add
		if round < 2 {
			record = func(string, time.Duration) {}
		}
		for _, userNamespace := range []bool{true, false} {
			if err := floor.life(ctx, userNamespace, record); err != nil {
				return fmt.Errorf("on the floor: %w", err)
			}
		}
		if err := b.life(cold, "pool 0", b.spec(), record); err != nil {
			return err
		}
		if err := b.life(cold, "pool 0, privileged", b.privilegedSpec(), onlyCreate(record)); err != nil {
			return err
		}
		if err := b.life(warm, "pool warm", b.spec(), record); err != nil {
			return err
		}
		// The pool fills up again, so that the next round finds it warm and the floor finds the machine idle.
		time.Sleep(400 * time.Millisecond)
	}
	return nil
}

// life measures a container's whole life. A destroy is answered before its place is taken down, which the next life
// shall not find going on: the floor's delete is over when it returns.
func (b *bench) life(on *node, pool string, spec garden.ContainerSpec, record func(string, time.Duration)) error {
	time.Sleep(200 * time.Millisecond)
	var container garden.Container
	steps := []struct {
		name string
		do   func() error
	}{
		{"ping", on.Ping},
		{"create, " + pool, func() (err error) { container, err = on.Create(spec); return err }},
		{"first process", func() error { return process(container, io.Discard, "/bin/true") }},
		{"further process", func() error { return process(container, io.Discard, "/bin/true") }},
		{"destroy", func() error { return on.Destroy(container.Handle()) }},
	}
	for _, step := range steps {
		begin := time.Now()
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		record(step.name, time.Since(begin))
	}
	return nil
}

func (b *bench) spec() garden.ContainerSpec {
	b.next++
	return garden.ContainerSpec{Handle: fmt.Sprintf("bench-%d", b.next), Image: garden.ImageRef{URI: "raw://" + b.root}}
}

func (b *bench) privilegedSpec() garden.ContainerSpec {
	spec := b.spec()
	spec.Image.URI, spec.Privileged = "raw://"+b.privileged, true
	return spec
}

// onlyCreate leaves out what is the same for every kind of container.
func onlyCreate(record func(string, time.Duration)) func(string, time.Duration) {
	return func(name string, took time.Duration) {
		if strings.HasPrefix(name, "create") {
			record(name, took)
		}
	}
}

// process runs a process to its end.
func process(container garden.Container, stdout io.Writer, path string, arguments ...string) error {
	started, err := container.Run(garden.ProcessSpec{Path: path, Args: arguments}, garden.ProcessIO{Stdout: stdout, Stderr: io.Discard})
	if err != nil {
		return err
	}
	status, err := started.Wait()
	if err == nil && status != 0 {
		err = fmt.Errorf("%s ended with status %d", path, status)
	}
	return err
}

// count is a writer that counts.
type count struct{ bytes int64 }

func (c *count) Write(data []byte) (int, error) {
	c.bytes += int64(len(data))
	return len(data), nil
}

// output measures 50 MB of stdout.
func (b *bench) output(on *node, rounds int) error {
	const size = 50_000_000
	container, err := on.Create(b.spec())
	if err != nil {
		return err
	}
	for range rounds {
		var seen count
		begin := time.Now()
		if err := process(container, &seen, "dd", "if=/dev/zero", "bs=1000000", fmt.Sprintf("count=%d", size/1_000_000)); err != nil {
			return err
		}
		b.report.add("50 MB of stdout", time.Since(begin))
		if seen.bytes != size {
			return fmt.Errorf("%d bytes of stdout where %d were written", seen.bytes, size)
		}
	}
	b.report.note("50 MB of stdout", "%.0f MB/s at p50", 50/b.report.quantile("50 MB of stdout", 0.5).Seconds())
	return on.Destroy(container.Handle())
}

// limited measures what limits cost, and reading figures of one container.
func (b *bench) limited(on *node, rounds int) error {
	for range rounds {
		spec := b.spec()
		spec.Limits = garden.Limits{
			Memory: garden.MemoryLimits{LimitInBytes: 64 << 20}, Pid: garden.PidLimits{Max: 100}, CPU: garden.CPULimits{Weight: 100},
		}
		var container garden.Container
		steps := []struct {
			name string
			do   func() error
		}{
			{"create with limits, pool 0", func() (err error) { container, err = on.Create(spec); return err }},
			{"first process with limits", func() error { return process(container, io.Discard, "/bin/true") }},
			{"further process with limits", func() error { return process(container, io.Discard, "/bin/true") }},
			{"metrics of one", func() error { _, err := container.Metrics(); return err }},
			{"limits of one", func() error { _, err := container.CurrentMemoryLimits(); return err }},
		}
		for _, step := range steps {
			begin := time.Now()
			if err := step.do(); err != nil {
				return fmt.Errorf("%s: %w", step.name, err)
			}
			b.report.add(step.name, time.Since(begin))
		}
		if err := on.Destroy(container.Handle()); err != nil {
			return err
		}
		time.Sleep(200 * time.Millisecond)
	}
	return nil
}

// crowd measures clients that create at the same time.
func (b *bench) crowd(name string, on *node, clients, containers int) error {
	time.Sleep(2 * time.Second)
	specs := make(chan garden.ContainerSpec, containers)
	for range containers {
		specs <- b.spec()
	}
	close(specs)
	var (
		group sync.WaitGroup
		mutex sync.Mutex
		made  []string
		errs  []error
	)
	begin := time.Now()
	for range clients {
		group.Go(func() {
			for spec := range specs {
				began := time.Now()
				_, err := on.Create(spec)
				mutex.Lock()
				b.report.add(name, time.Since(began))
				made, errs = append(made, spec.Handle), append(errs, err)
				mutex.Unlock()
			}
		})
	}
	group.Wait()
	b.report.note(name, "%.0f a second", float64(containers)/time.Since(begin).Seconds())
	for _, handle := range made {
		errs = append(errs, on.Destroy(handle))
	}
	return errors.Join(errs...)
}

// manyLive measures what could grow with the number of containers.
func (b *bench) manyLive(on *node, live, rounds int) error {
	handles := make([]string, 0, live)
	for range live {
		container, err := on.Create(b.spec())
		if err != nil {
			return fmt.Errorf("container %d of %d: %w", len(handles)+1, live, err)
		}
		handles = append(handles, container.Handle())
	}
	at := fmt.Sprintf(", %d live", live)
	for range rounds {
		begin := time.Now()
		if _, err := on.Containers(nil); err != nil {
			return err
		}
		b.report.add("list"+at, time.Since(begin))
		begin = time.Now()
		if _, err := on.BulkInfo(handles); err != nil {
			return err
		}
		b.report.add(bulkInfo, time.Since(begin))
		begin = time.Now()
		entries, err := on.BulkMetrics(handles)
		if err != nil {
			return err
		}
		b.report.add(bulkMetrics, time.Since(begin))
		for handle, entry := range entries {
			if entry.Err != nil {
				return fmt.Errorf("figures of %s: %w", handle, entry.Err)
			}
		}
	}
	b.report.note(bulkInfo, "of %d", live)
	b.report.note(bulkMetrics, "of %d", live)
	for range min(rounds, 20) {
		if err := b.life(on, "pool 0"+at, b.spec(), func(name string, took time.Duration) {
			if name != "ping" {
				b.report.add(strings.TrimSuffix(name, at)+at, took)
			}
		}); err != nil {
			return err
		}
	}
	own, all, err := on.server.Memory()
	if err != nil {
		return err
	}
	b.report.memory(own, all, live)
	for _, handle := range handles {
		if err := on.Destroy(handle); err != nil {
			return err
		}
	}
	return nil
}
