package garden_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"
)

const mebibyte = 1 << 20

// digest hashes and counts what is written to it.
type digest struct {
	hash hash.Hash
	size int64
}

func newDigest() *digest { return &digest{hash: sha256.New()} }

func (d *digest) Write(data []byte) (int, error) {
	d.size += int64(len(data))
	return d.hash.Write(data)
}

func (d *digest) String() string { return hex.EncodeToString(d.hash.Sum(nil)) }

// randomFile puts random bytes into a file and returns their hash.
func randomFile(t *testing.T, path string, size int64) string {
	t.Helper()
	file, err := os.Create(path)
	must(t, err)
	defer file.Close()
	sum := newDigest()
	_, err = io.CopyN(io.MultiWriter(file, sum), rand.Reader, size)
	must(t, err)
	return sum.String()
}

func TestStreams(t *testing.T) {
	behaviour(t, "stdout and stderr arrive apart", func(t *testing.T) {
		result := run(t, create(t, spec(t)), shell("echo to out; echo to err >&2; echo out again"))
		equal(t, "stdout", result.stdout, "to out\nout again\n")
		equal(t, "stderr", result.stderr, "to err\n")
	})
	behaviour(t, "every byte value passes in both directions that carry bytes", func(t *testing.T) {
		all := make([]byte, 256)
		for i := range all {
			all[i] = byte(i)
		}
		asked := spec(t)
		must(t, os.WriteFile(filepath.Join(strings.TrimPrefix(asked.Image.URI, "raw://"), "all"), all, 0o644))
		result := run(t, create(t, asked), shell("cat /all; cat /all >&2"))
		equal(t, "stdout", result.stdout, string(all))
		equal(t, "stderr", result.stderr, string(all))
	})
	behaviour(t, "stdin arrives and ends", func(t *testing.T) {
		container := create(t, spec(t))
		equal(t, "output", run(t, container, garden.ProcessSpec{Path: "cat"}, "one\n", "two, ünï\x00\n").stdout, "one\ntwo, ünï\x00\n")
		equal(t, "empty input", run(t, container, shell("cat; echo end"), "").stdout, "end\n")
	})
	behaviour(t, "stdin that the client sends in one large message arrives", func(t *testing.T) {
		text := strings.Repeat("ünï \"quoted\" \\ \n", 500_000)
		result := run(t, create(t, spec(t)), garden.ProcessSpec{Path: "sha256sum"}, text)
		equal(t, "hash", result.stdout, fmt.Sprintf("%x  -\n", sha256.Sum256([]byte(text))))
	})
	behaviour(t, "a process whose client gives no stdin waits for it, and one that does not read it still ends", func(t *testing.T) {
		container := create(t, spec(t))
		process := start(t, container, shell("read line; exit 5"), garden.ProcessIO{})
		if status, err := waited(process, 300*time.Millisecond); !errors.Is(err, errTooLong) {
			t.Fatalf("ended: %d %v", status, err)
		}
		must(t, process.Signal(garden.SignalKill))
		equal(t, "status", run(t, container, shell("exit 6"), strings.Repeat("unread ", mebibyte)).status, 6)
	})
	behaviour(t, "input and output flow at the same time", func(t *testing.T) {
		container := create(t, spec(t))
		reader, writer := io.Pipe()
		stdout := newBuffer()
		process := start(t, container, garden.ProcessSpec{Path: "cat"}, garden.ProcessIO{Stdin: reader, Stdout: stdout})
		for i := range 20 {
			line := fmt.Sprintf("line %d\n", i)
			_, err := writer.Write([]byte(line))
			must(t, err)
			stdout.awaits(t, line)
		}
		must(t, writer.Close())
		equal(t, "status", wait(t, process), 0)
	})
	behaviour(t, "the output of a process that ends at once is whole, every time", func(t *testing.T) {
		container := create(t, spec(t))
		for i := range 200 {
			result := run(t, container, shell("echo out; echo err >&2"))
			if result.stdout != "out\n" || result.stderr != "err\n" {
				t.Fatalf("round %d: %+v", i, result)
			}
		}
	})
	behaviour(t, "a burst of output just before the end is whole", func(t *testing.T) {
		asked := spec(t)
		sum := randomFile(t, filepath.Join(strings.TrimPrefix(asked.Image.URI, "raw://"), "data"), mebibyte)
		container := create(t, asked)
		for range 20 {
			seen := newDigest()
			process := start(t, container, garden.ProcessSpec{Path: "cat", Args: []string{"/data"}}, garden.ProcessIO{Stdout: seen})
			equal(t, "status", wait(t, process), 0)
			equal(t, "hash", seen.String(), sum)
		}
	})
	behaviour(t, "a client may read one stream and not the other", func(t *testing.T) {
		container := create(t, spec(t))
		stdout := newBuffer()
		process := start(t, container, shell("head -c 1000000 /dev/zero >&2; echo done"), garden.ProcessIO{Stdout: stdout})
		equal(t, "status", wait(t, process), 0)
		equal(t, "stdout", stdout.String(), "done\n")
	})
	behaviour(t, "a process that nobody reads is never blocked", func(t *testing.T) {
		container := create(t, spec(t))
		process := start(t, container, shell("head -c 8000000 /dev/zero; head -c 8000000 /dev/zero >&2; exit 9"), garden.ProcessIO{})
		equal(t, "status", wait(t, process), 9)
	})
	behaviour(t, "closed stdout does not end the stream of stderr, nor the process", func(t *testing.T) {
		container := create(t, spec(t))
		stdout, stderr := newBuffer(), newBuffer()
		process := start(t, container, shell("echo a; exec >&-; sleep 0.3; echo b >&2; exit 2"),
			garden.ProcessIO{Stdout: stdout, Stderr: stderr})
		equal(t, "status", wait(t, process), 2)
		equal(t, "streams", stdout.String()+stderr.String(), "a\nb\n")
	})
	behaviour(t, "a reader that stalls holds up neither the other stream nor another process", func(t *testing.T) {
		container := create(t, spec(t))
		release := make(chan struct{})
		stalled := &stall{release: release, sum: newDigest()}
		stderr := newBuffer()
		process := start(t, container, shell("(head -c 20000000 /dev/zero) & (sleep 0.2; echo err >&2) & wait"),
			garden.ProcessIO{Stdout: stalled, Stderr: stderr})
		stderr.awaits(t, "err")
		equal(t, "another process", sh(t, container, "echo fine"), "fine\n")
		close(release)
		equal(t, "status", wait(t, process), 0)
		equal(t, "bytes after the stall", stalled.sum.size, int64(20000000))
	})
	long(t, "64 MiB of random bytes arrive on stdout while 64 MiB of others arrive on stderr", func(t *testing.T) {
		asked := spec(t)
		path := strings.TrimPrefix(asked.Image.URI, "raw://")
		out := randomFile(t, filepath.Join(path, "out"), 64*mebibyte)
		err := randomFile(t, filepath.Join(path, "err"), 64*mebibyte)
		container := create(t, asked)
		stdout, stderr := newDigest(), newDigest()
		process := start(t, container, shell("cat /out & cat /err >&2; wait"), garden.ProcessIO{Stdout: stdout, Stderr: stderr})
		equal(t, "status", wait(t, process), 0)
		equal(t, "stdout", stdout.String(), out)
		equal(t, "stderr", stderr.String(), err)
	})
	long(t, "64 MiB of random text arrive on stdin", func(t *testing.T) {
		random := make([]byte, 48*mebibyte)
		_, err := rand.Read(random)
		must(t, err)
		text := base64.StdEncoding.EncodeToString(random)
		equal(t, "size of the text", len(text), 64*mebibyte)
		stdout := newBuffer()
		process := start(t, create(t, spec(t)), garden.ProcessSpec{Path: "sha256sum"},
			garden.ProcessIO{Stdin: pieces{strings.NewReader(text)}, Stdout: stdout})
		status, err := waited(process, 2*time.Minute)
		must(t, err)
		equal(t, "status", status, 0)
		equal(t, "hash", stdout.String(), fmt.Sprintf("%x  -\n", sha256.Sum256([]byte(text))))
	})
	long(t, "what is sent comes back the same through a slow process", func(t *testing.T) {
		var text bytes.Buffer
		for i := range 200_000 {
			fmt.Fprintf(&text, "%d\n", i)
		}
		slow := shell("while dd bs=65536 count=1 2>/dev/null >/piece && test -s /piece; do cat /piece; usleep 10000; done")
		result := run(t, create(t, spec(t)), slow, text.String())
		if result.stdout != text.String() {
			t.Fatalf("sent %d bytes, received %d others", text.Len(), len(result.stdout))
		}
	})
}

// pieces is a reader that hides how it could be written whole: the client then sends messages of 32 KiB, as it does
// for a file or a pipe, and not one of everything.
type pieces struct{ io.Reader }

// stall is a writer that takes nothing until it is released.
type stall struct {
	release <-chan struct{}
	sum     *digest
}

func (s *stall) Write(data []byte) (int, error) {
	<-s.release
	return s.sum.Write(data)
}
