package main

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"time"

	"code.cloudfoundry.org/garden"
)

const (
	largeFile  = 50_000_000
	smallFiles = 5_000
)

// files measures tar streams in and out: one large file, and many small ones. Each goes into a folder of its own, so
// that nothing has to be replaced, and nothing is removed meanwhile: ext4 is slow to make files for some seconds after
// many were removed.
func (b *bench) files(on *node, rounds int) error {
	container, err := on.Create(b.spec())
	if err != nil {
		return err
	}
	content := make([]byte, largeFile)
	if _, err := rand.Read(content); err != nil {
		return err
	}
	large, err := archive(1, content)
	if err != nil {
		return err
	}
	small, err := archive(smallFiles, []byte("a small file\n"))
	if err != nil {
		return err
	}
	for round := range rounds {
		for _, one := range []struct {
			name, folder string
			stream       []byte
		}{{"50 MB", "/bench", large}, {"5,000 files", "/bench", small}, {"5,000 files, tmpfs", "/dev/shm", small}} {
			to := fmt.Sprintf("%s/%d-%d", one.folder, round, len(one.stream))
			begin := time.Now()
			if err := container.StreamIn(garden.StreamInSpec{Path: to, TarStream: bytes.NewReader(one.stream)}); err != nil {
				return err
			}
			b.report.add("stream-in of "+one.name, time.Since(begin))

			begin = time.Now()
			stream, err := container.StreamOut(garden.StreamOutSpec{Path: to + "/"})
			if err != nil {
				return err
			}
			seen, err := io.Copy(io.Discard, stream)
			if err != nil {
				return err
			}
			b.report.add("stream-out of "+one.name, time.Since(begin))
			_ = stream.Close()
			if one.folder != "/bench" {
				if err := process(container, io.Discard, "rm", "-rf", to); err != nil {
					return err
				}
			}
			if seen < int64(len(one.stream)) {
				return fmt.Errorf("%d bytes came out where %d went in", seen, len(one.stream))
			}
		}
	}
	for _, name := range []string{"stream-in of 50 MB", "stream-out of 50 MB"} {
		b.report.note(name, "%.0f MB/s at p50", largeFile/1e6/b.report.quantile(name, 0.5).Seconds())
	}
	if err := process(container, io.Discard, "rm", "-rf", "/bench"); err != nil {
		return err
	}
	return on.Destroy(container.Handle())
}

// archive is a tar stream of so many files with this content.
func archive(count int, content []byte) ([]byte, error) {
	var stream bytes.Buffer
	writer := tar.NewWriter(&stream)
	for number := range count {
		name := fmt.Sprintf("%d/%d", number%50, number)
		err := writer.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))})
		if err != nil {
			return nil, err
		}
		if _, err := writer.Write(content); err != nil {
			return nil, err
		}
	}
	err := writer.Close()
	return stream.Bytes(), err
}
