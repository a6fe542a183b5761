package harness

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Media types, as OCI and Docker name them.
const (
	OCIIndex       = "application/vnd.oci.image.index.v1+json"
	OCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	OCIConfig      = "application/vnd.oci.image.config.v1+json"
	OCILayer       = "application/vnd.oci.image.layer.v1.tar"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerConfig   = "application/vnd.docker.container.image.v1+json"
	DockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
)

// Compression is how a layer is packed.
type Compression string

// Plain, Gzip and Zstd are what gardend unpacks.
const (
	Plain Compression = ""
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
)

// Blob is anything that a registry keeps.
type Blob struct {
	MediaType string
	Data      []byte
}

// Digest is sha256 of the blob.
func (b Blob) Digest() string { return Digest(b.Data) }

// Digest is sha256 of the bytes.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Layer is a tar, and how it is packed.
type Layer struct {
	Tar         []byte
	Compression Compression
}

// ImageOptions say what an image is.
type ImageOptions struct {
	Layers []Layer
	Config map[string]any
	// Architecture is this machine's where it is empty.
	Architecture string
	// Docker has Docker's media types in place of OCI's.
	Docker bool
}

// Image is a manifest or an index, and all that belongs to it.
type Image struct {
	Manifest Blob
	Blobs    []Blob
	// Children are the manifests of an index.
	Children []Image
	// Layers are the digests of its layers.
	Layers []string
}

type descriptor struct {
	MediaType string            `json:"mediaType"`
	Digest    string            `json:"digest"`
	Size      int               `json:"size"`
	Platform  map[string]string `json:"platform,omitempty"`
}

func describe(blob Blob) descriptor {
	return descriptor{MediaType: blob.MediaType, Digest: blob.Digest(), Size: len(blob.Data)}
}

func encode(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return data
}

// NewImage makes one.
func NewImage(options ImageOptions) Image {
	manifestType, configType, layerType, dot := OCIManifest, OCIConfig, OCILayer, "+"
	if options.Docker {
		manifestType, configType, layerType, dot = DockerManifest, DockerConfig, DockerLayer, "."
	}
	var image Image
	var layers []descriptor
	var diffs []string
	for _, layer := range options.Layers {
		diffs = append(diffs, Digest(layer.Tar))
		blob := Blob{MediaType: layerType, Data: layer.Tar}
		switch layer.Compression {
		case Gzip:
			blob = Blob{MediaType: layerType + dot + "gzip", Data: gzipped(layer.Tar)}
		case Zstd:
			blob = Blob{MediaType: layerType + dot + "zstd", Data: zstandard(layer.Tar)}
		}
		image.Blobs = append(image.Blobs, blob)
		image.Layers = append(image.Layers, blob.Digest())
		layers = append(layers, describe(blob))
	}
	architecture := options.Architecture
	if architecture == "" {
		architecture = runtime.GOARCH
	}
	config := Blob{MediaType: configType, Data: encode(map[string]any{
		"os": "linux", "architecture": architecture, "config": options.Config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})}
	image.Blobs = append(image.Blobs, config)
	image.Manifest = Blob{MediaType: manifestType, Data: encode(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "config": describe(config), "layers": layers,
	})}
	return image
}

// NewIndex puts images for several architectures together.
func NewIndex(docker bool, of map[string]Image) Image {
	kind := OCIIndex
	if docker {
		kind = DockerList
	}
	var index Image
	var entries []descriptor
	for architecture, image := range of {
		entry := describe(image.Manifest)
		entry.Platform = map[string]string{"os": "linux", "architecture": architecture}
		entries = append(entries, entry)
		index.Children = append(index.Children, image)
	}
	index.Manifest = Blob{MediaType: kind, Data: encode(map[string]any{
		"schemaVersion": 2, "mediaType": kind, "manifests": entries,
	})}
	return index
}

func gzipped(data []byte) []byte {
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	_, _ = writer.Write(data)
	_ = writer.Close()
	return packed.Bytes()
}

// zstandard packs without making anything smaller: RFC 8878's raw blocks.
func zstandard(data []byte) []byte {
	const block = 128 << 10
	// Magic, and a header that says a window of 128 KiB and no size.
	packed := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38}
	for {
		length, last := min(len(data), block), uint32(0)
		if length == len(data) {
			last = 1
		}
		header := make([]byte, 4)
		binary.LittleEndian.PutUint32(header, uint32(length)<<3|last)
		packed = append(append(packed, header[:3]...), data[:length]...)
		data = data[length:]
		if last == 1 {
			return packed
		}
	}
}

// Tar packs entries; an entry's size is that of its content.
func Tar(entries ...TarEntry) []byte {
	var packed bytes.Buffer
	writer := tar.NewWriter(&packed)
	for _, entry := range entries {
		header := entry.Header
		header.Size = int64(len(entry.Content))
		if header.Mode == 0 {
			header.Mode = 0o644
		}
		if err := writer.WriteHeader(&header); err != nil {
			panic(err)
		}
		_, _ = writer.Write([]byte(entry.Content))
	}
	_ = writer.Close()
	return packed.Bytes()
}

// TarEntry is one file.
type TarEntry struct {
	tar.Header
	Content string
}

// File is a regular one.
func File(name, content string) TarEntry {
	return TarEntry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name}, Content: content}
}

// Folder is one.
func Folder(name string) TarEntry {
	return TarEntry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}}
}

// Tar packs the root file system.
func (r *Rootfs) Tar() ([]byte, error) {
	var packed bytes.Buffer
	writer := tar.NewWriter(&packed)
	err := filepath.WalkDir(r.template, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == r.template {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		link := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(path); err != nil {
				return err
			}
		}
		header, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(r.template, path)
		header.Name = name
		header.Uname, header.Gname = "", ""
		header.Uid, header.Gid = owner(info)
		if err := writer.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		_, err = writer.Write(content)
		return err
	})
	if err != nil {
		return nil, err
	}
	return packed.Bytes(), writer.Close()
}

// WriteLayout writes an image as an OCI layout, under a tag.
func WriteLayout(folder, tag string, image Image) error {
	blobs := filepath.Join(folder, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
		return err
	}
	var write func(Image) error
	write = func(image Image) error {
		for _, blob := range append([]Blob{image.Manifest}, image.Blobs...) {
			if err := os.WriteFile(filepath.Join(blobs, blob.Digest()[7:]), blob.Data, 0o644); err != nil {
				return err
			}
		}
		for _, child := range image.Children {
			if err := write(child); err != nil {
				return err
			}
		}
		return nil
	}
	if err := write(image); err != nil {
		return err
	}
	entry := map[string]any{
		"mediaType": image.Manifest.MediaType, "digest": image.Manifest.Digest(), "size": len(image.Manifest.Data),
		"annotations": map[string]string{"org.opencontainers.image.ref.name": tag},
	}
	index := encode(map[string]any{"schemaVersion": 2, "manifests": []any{entry}})
	return os.WriteFile(filepath.Join(folder, "index.json"), index, 0o644)
}
