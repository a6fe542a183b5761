package garden_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"

	"github.com/gardend/gardend/tests/go/harness"
)

// then is a time with a fraction, long ago.
var then = time.Unix(1_000_000_000, 250_000_000)

// member is one of a tar stream.
type member struct {
	tar.Header
	content string
}

// file is a member that everybody may read.
func file(name, content string) member {
	return member{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: then}, content}
}

func dir(name string, mode int64) member {
	return member{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, ModTime: then}, ""}
}

func link(kind byte, name, target string) member {
	return member{tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o777, ModTime: then}, ""}
}

// archive is a whole tar stream.
func archive(t *testing.T, members ...member) []byte {
	t.Helper()
	var stream bytes.Buffer
	writer := tar.NewWriter(&stream)
	for _, member := range members {
		header := member.Header
		header.Size = int64(len(member.content))
		if header.Format == tar.FormatUnknown {
			header.Format = tar.FormatPAX
		}
		must(t, writer.WriteHeader(&header))
		_, err := io.WriteString(writer, member.content)
		must(t, err)
	}
	must(t, writer.Close())
	return stream.Bytes()
}

func zipped(t *testing.T, stream []byte) []byte {
	t.Helper()
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	_, err := writer.Write(stream)
	must(t, errors.Join(err, writer.Close()))
	return packed.Bytes()
}

// streamIn streams in, and gives up where that does not end.
func streamIn(container garden.Container, user, path string, stream io.Reader) error {
	done := make(chan error, 1)
	go func() {
		done <- container.StreamIn(garden.StreamInSpec{Path: path, User: user, TarStream: stream})
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(5 * time.Minute):
		return errors.New("the stream in was never answered")
	}
}

// put streams members in, which must succeed.
func put(t *testing.T, container garden.Container, user, path string, members ...member) {
	t.Helper()
	must(t, streamIn(container, user, path, bytes.NewReader(archive(t, members...))))
}

// get streams out to the end.
func get(container garden.Container, user, path string) ([]byte, error) {
	stream, err := container.StreamOut(garden.StreamOutSpec{Path: path, User: user})
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	return io.ReadAll(stream)
}

// members reads a tar stream that must be whole.
func members(t *testing.T, stream []byte) (names []string, byName map[string]member) {
	t.Helper()
	byName = map[string]member{}
	reader := tar.NewReader(bytes.NewReader(stream))
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return names, byName
		}
		must(t, err)
		content, err := io.ReadAll(reader)
		must(t, err)
		names = append(names, header.Name)
		byName[header.Name] = member{*header, string(content)}
	}
}

// fetch streams out and reads what comes.
func fetch(t *testing.T, container garden.Container, user, path string) ([]string, map[string]member) {
	t.Helper()
	stream, err := get(container, user, path)
	must(t, err)
	return members(t, stream)
}

// stat is what busybox's stat says of a file in a container.
func stat(t *testing.T, container garden.Container, format, path string) string {
	t.Helper()
	return strings.TrimSpace(sh(t, container, fmt.Sprintf("stat -c '%s' '%s'", format, path)))
}

// movers counts the processes that move files for a container of the suite's server, by the name they give themselves.
func movers(of *harness.Server) int {
	mark := "/gardend/" + of.Owner() + "/"
	count := 0
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		comm, _ := os.ReadFile(name)
		groups, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "cgroup"))
		if string(comm) == "garden-files\n" && strings.Contains(string(groups), mark) {
			count++
		}
	}
	return count
}

// tap is a reader that gives so many bytes, and then waits until it is closed.
type tap struct {
	io.Reader
	dry  chan struct{}
	shut chan struct{}
}

func newTap(stream []byte) *tap {
	return &tap{Reader: bytes.NewReader(stream), dry: make(chan struct{}), shut: make(chan struct{})}
}

func (t *tap) Read(into []byte) (int, error) {
	if read, err := t.Reader.Read(into); err == nil {
		return read, nil
	}
	select {
	case <-t.dry:
	default:
		close(t.dry)
	}
	<-t.shut
	return 0, io.ErrUnexpectedEOF
}

// numbers is a tar stream of so many small files, a thousand a folder, made as it is read.
func numbers(count int) io.Reader {
	reader, writer := io.Pipe()
	go func() {
		archive := tar.NewWriter(writer)
		for number := range count {
			content := strconv.Itoa(number)
			err := archive.WriteHeader(&tar.Header{
				Typeflag: tar.TypeReg, Name: fmt.Sprintf("%d/%d", number/1000, number), Mode: 0o644, Size: int64(len(content)),
			})
			if err == nil {
				_, err = io.WriteString(archive, content)
			}
			if err != nil {
				writer.CloseWithError(err)
				return
			}
		}
		writer.CloseWithError(archive.Close())
	}()
	return reader
}

// peak samples the largest resident set of gardend and of what moves files until it is stopped, in bytes.
func peak(t *testing.T) (stop func() (gardend, mover int64)) {
	t.Helper()
	end, done := make(chan struct{}), make(chan [2]int64)
	resident := func(pid int) int64 {
		content, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for line := range strings.Lines(string(content)) {
			var kibibytes int64
			if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kibibytes); err == nil {
				return kibibytes << 10
			}
		}
		return 0
	}
	go func() {
		var most [2]int64
		for {
			most[0] = max(most[0], resident(server.Pid()))
			names, _ := filepath.Glob("/proc/[0-9]*/comm")
			for _, name := range names {
				if comm, _ := os.ReadFile(name); string(comm) == "garden-files\n" {
					pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
					most[1] = max(most[1], resident(pid))
				}
			}
			select {
			case <-end:
				done <- most
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return func() (int64, int64) {
		close(end)
		most := <-done
		return most[0], most[1]
	}
}
