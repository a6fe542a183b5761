package garden_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"

	"github.com/gardend/gardend/tests/go/harness"
)

func TestStreamFaults(t *testing.T) {
	// half streams the beginning of a large file in, and returns once that is on its way.
	half := func(t *testing.T, container garden.Container, path string) (*tap, <-chan error) {
		t.Helper()
		stream := archive(t, file("first", "there"), file("large", strings.Repeat("x", 4*mebibyte)))
		source := newTap(stream[:2*mebibyte])
		t.Cleanup(func() {
			select {
			case <-source.shut:
			default:
				close(source.shut)
			}
		})
		done := make(chan error, 1)
		go func() { done <- streamIn(container, "", path, source) }()
		select {
		case <-source.dry:
		case <-time.After(patience):
			t.Fatal("nobody reads the stream")
		}
		// The client has read it; the container may get it later.
		eventually(t, patience, func() error {
			if seen := run(t, container, shell("cat "+path+"/first")); seen.stdout != "there" {
				return errors.New("the beginning has not arrived")
			}
			return nil
		})
		return source, done
	}
	answered := func(t *testing.T, done <-chan error) error {
		t.Helper()
		select {
		case err := <-done:
			return err
		case <-time.After(patience):
			t.Fatal("the stream was never answered")
			return nil
		}
	}
	behaviour(t, "a destroy in the middle of a stream in is prompt, and the stream an error", func(t *testing.T) {
		container := create(t, spec(t))
		_, done := half(t, container, "/to")
		begin := time.Now()
		must(t, gard.Destroy(container.Handle()))
		if took := time.Since(begin); took > 5*time.Second {
			t.Fatalf("took %v", took)
		}
		if err := answered(t, done); err == nil {
			t.Fatal("the stream was answered as if it were whole")
		}
	})
	behaviour(t, "a destroy in the middle of a stream out cuts it", func(t *testing.T) {
		container := create(t, spec(t))
		sh(t, container, "dd if=/dev/zero of=/tmp/large bs=1M count=64 2>/dev/null")
		stream, err := container.StreamOut(garden.StreamOutSpec{Path: "/tmp/large"})
		must(t, err)
		defer stream.Close()
		_, err = io.CopyN(io.Discard, stream, mebibyte)
		must(t, err)
		must(t, gard.Destroy(container.Handle()))
		rest, err := io.Copy(io.Discard, stream)
		if err == nil {
			t.Fatalf("%d more bytes came and a clean end", rest)
		}
	})
	behaviour(t, "a client that vanishes in the middle of a stream in leaves a container that works", func(t *testing.T) {
		container := create(t, spec(t))
		other, dialer := cuttable()
		source, done := half(t, on(t, other, container), "/to")
		dialer.Cut()
		close(source.shut)
		if err := answered(t, done); err == nil {
			t.Fatal("the client was told that all is well")
		}
		equal(t, "what had come", sh(t, container, "cat /to/first"), "there")
		put(t, container, "", "/to", file("again", "x"))
	})
	behaviour(t, "a client that stops reading a stream out leaves nothing running", func(t *testing.T) {
		alone, err := harness.Start(harness.Options{Arguments: []string{"--pool-size", "0"}})
		must(t, err)
		t.Cleanup(func() { _, err := alone.Terminate(); must(t, errors.Join(err, alone.TearDown())) })
		container := createOn(t, clientOf(alone.Address), spec(t))
		sh(t, container, "dd if=/dev/zero of=/tmp/large bs=1M count=64 2>/dev/null")
		for range 4 {
			stream, err := container.StreamOut(garden.StreamOutSpec{Path: "/tmp/large"})
			must(t, err)
			_, err = io.CopyN(io.Discard, stream, 100_000)
			must(t, err)
			equal(t, "running", movers(alone) >= 1, true)
			must(t, stream.Close())
		}
		eventually(t, patience, func() error {
			if left := movers(alone); left > 0 {
				return fmt.Errorf("%d processes still move files", left)
			}
			return nil
		})
	})
	behaviour(t, "a gardend that is killed in the middle takes the stream along, and nothing else", func(t *testing.T) {
		first, err := harness.Start(harness.Options{Arguments: []string{"--pool-size", "0"}})
		must(t, err)
		last := first
		t.Cleanup(func() { _, err := last.Terminate(); must(t, errors.Join(err, last.TearDown())) })
		// Without the suite's own clean-up, which would ask the gardend that is gone.
		container, err := clientOf(first.Address).Create(spec(t))
		must(t, err)
		process := start(t, container, garden.ProcessSpec{ID: "kept", Path: "sleep", Args: []string{"1000"}}, garden.ProcessIO{})
		source, done := half(t, container, "/to")
		equal(t, "movers", movers(first), 1)
		must(t, syscall.Kill(first.Pid(), syscall.SIGKILL))
		close(source.shut)
		if err := answered(t, done); err == nil {
			t.Fatal("the client was told that all is well")
		}
		next, err := harness.Start(harness.Options{Arguments: []string{"--pool-size", "0"}, Folder: first.Folder})
		must(t, err)
		last = next
		eventually(t, patience, func() error {
			if left := movers(next); left > 0 {
				return fmt.Errorf("%d processes still move files", left)
			}
			return nil
		})
		gard := clientOf(next.Address)
		same, err := gard.Lookup(container.Handle())
		must(t, err)
		equal(t, "what had come", sh(t, same, "cat /to/first"), "there")
		put(t, same, "", "/to", file("again", "x"))
		_, err = same.Attach(process.ID(), garden.ProcessIO{})
		must(t, err)
		must(t, gard.Destroy(same.Handle()))
	})
	behaviour(t, "a stop neither waits for a stream nor ends it, unless it kills", func(t *testing.T) {
		container := create(t, spec(t))
		stream := archive(t, file("f", strings.Repeat("x", mebibyte)))
		reader, writer := io.Pipe()
		done := make(chan error, 1)
		go func() { done <- streamIn(container, "", "/to", reader) }()
		_, err := writer.Write(stream[:1000])
		must(t, err)
		begin := time.Now()
		must(t, container.Stop(false))
		if took := time.Since(begin); took > 5*time.Second {
			t.Fatalf("took %v", took)
		}
		_, err = writer.Write(stream[1000:])
		must(t, errors.Join(err, writer.Close()))
		must(t, answered(t, done))
		equal(t, "size", stat(t, container, "%s", "/to/f"), fmt.Sprint(mebibyte))
		_, done2 := half(t, container, "/to")
		must(t, container.Stop(true))
		refused(t, answered(t, done2), "error streaming in: ", "stopped or destroyed")
	})
	long(t, "a stream keeps a container in use: its grace time does not count meanwhile", func(t *testing.T) {
		asked := spec(t)
		asked.GraceTime = time.Second
		container := create(t, asked)
		stream := archive(t, file("f", "x"))
		reader, writer := io.Pipe()
		done := make(chan error, 1)
		go func() { done <- streamIn(container, "", "/to", reader) }()
		_, err := writer.Write(stream[:512])
		must(t, err)
		time.Sleep(4 * time.Second)
		equal(t, "listed", listed(t, container.Handle()), true)
		_, err = writer.Write(stream[512:])
		must(t, errors.Join(err, writer.Close()))
		must(t, answered(t, done))
		eventually(t, 15*time.Second, func() error {
			if listed(t, container.Handle()) {
				return errors.New("still there")
			}
			return nil
		})
	})
	long(t, "a process sees no stream among its container's processes but by its own name", func(t *testing.T) {
		container := create(t, spec(t))
		source, done := half(t, container, "/to")
		holds(t, sh(t, container, "cat /proc/[0-9]*/comm"), "garden-init\n", "garden-files\n")
		info, err := container.Info()
		must(t, err)
		equal(t, "processes", len(info.ProcessIDs), 0)
		close(source.shut)
		answered(t, done)
	})
}

// TestLargeStreams measures memory, so that nothing else runs beside it.
func TestLargeStreams(t *testing.T) {
	if testing.Short() || os.Getenv("GARDEND_ADDRESS") != "" {
		t.Skip("moves much data, and looks at the server's memory")
	}
	const most, small = 64 * mebibyte, 8 * mebibyte
	check := func(t *testing.T, what string, stop func() (int64, int64), before int64) {
		t.Helper()
		gardend, mover := stop()
		t.Logf("%s: gardend %.1f MB (%.1f MB before), what moves files %.1f MB resident", what,
			float64(gardend)/1e6, float64(before)/1e6, float64(mover)/1e6)
		if gardend > before+most || mover > small {
			t.Fatalf("%s: gardend took %d bytes more, the other has %d", what, gardend-before, mover)
		}
	}
	t.Run("100,000 small files go in and come out in constant memory", func(t *testing.T) {
		container := create(t, spec(t))
		before, stop := memory(t), peak(t)
		must(t, streamIn(container, "", "/to", numbers(100_000)))
		check(t, "100,000 files in", stop, before)
		equal(t, "last", sh(t, container, "cat /to/99/99999"), "99999")
		equal(t, "files", sh(t, container, "find /to -type f | wc -l"), "100000\n")
		before, stop = memory(t), peak(t)
		stream, err := container.StreamOut(garden.StreamOutSpec{Path: "/to/"})
		must(t, err)
		defer stream.Close()
		size, err := io.Copy(io.Discard, stream)
		must(t, err)
		check(t, "100,000 files out", stop, before)
		if size < 100_000*1024 {
			t.Fatalf("%d bytes came", size)
		}
	})
	t.Run("a file of 2 GiB goes in and comes out in constant memory", func(t *testing.T) {
		const size = 2 << 30
		container := create(t, spec(t))
		before, stop := memory(t), peak(t)
		large := io.MultiReader(bytes.NewReader(largeHeader(t, size)), io.LimitReader(zeros{}, size+1024))
		must(t, streamIn(container, "", "/to", large))
		check(t, "2 GiB in", stop, before)
		equal(t, "size", stat(t, container, "%s", "/to/large"), fmt.Sprint(size))
		before, stop = memory(t), peak(t)
		stream, err := container.StreamOut(garden.StreamOutSpec{Path: "/to/large"})
		must(t, err)
		defer stream.Close()
		came, err := io.Copy(io.Discard, stream)
		must(t, err)
		check(t, "2 GiB out", stop, before)
		if came < size+1536 {
			t.Fatalf("%d bytes came", came)
		}
	})
}
