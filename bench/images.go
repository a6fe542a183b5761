package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"code.cloudfoundry.org/garden"

	"github.com/gardend/gardend/tests/go/harness"
)

// Layers of the image beside the root file system's, and the bytes of each, which do not shrink.
const (
	pulledLayers = 4
	layerBytes   = 4 << 20
)

// pulls measures an image of 5 layers from a registry on the loopback, by TLS and with a password: pulled where nothing
// of it is on the node, asked for again, and a container on it. The registry runs on the same processors.
func (b *bench) pulls(folder string, base []byte, rounds int) (err error) {
	authority, err := harness.NewAuthority(folder)
	if err != nil {
		return err
	}
	registry, err := harness.StartRegistry(folder, authority)
	if err != nil {
		return err
	}
	defer registry.Stop()
	node, err := start("--pool-size", "0", "--registry-ca", authority.Path)
	if err != nil {
		return err
	}
	defer func() {
		if torn := node.server.TearDown(); err == nil {
			err = torn
		}
	}()
	layers := []harness.Layer{{Tar: base, Compression: harness.Gzip}}
	chance := rand.NewChaCha8([32]byte{1})
	for n := range pulledLayers {
		noise := make([]byte, layerBytes)
		_, _ = chance.Read(noise)
		file := harness.Tar(harness.File(fmt.Sprint("noise", n), string(noise)))
		layers = append(layers, harness.Layer{Tar: file, Compression: harness.Gzip})
	}
	if err := registry.Push("bench/five", "latest", harness.NewImage(harness.ImageOptions{Layers: layers})); err != nil {
		return err
	}
	image := garden.ImageRef{
		URI: "docker://" + registry.Host + "/bench/five", Username: harness.RegistryUser, Password: harness.RegistryPassword,
	}
	body := fmt.Sprintf(`{"uri":%q,"username":%q,"password":%q}`, image.URI, image.Username, image.Password)
	for range rounds {
		if err := node.images("prune", `{"all":true}`, `"images"`); err != nil {
			return err
		}
		for _, name := range []string{"pull of 5 layers, cold", "pull of 5 layers, warm"} {
			begin := time.Now()
			if err := node.images("pull", body, `"pulled"`); err != nil {
				return err
			}
			b.report.add(name, time.Since(begin))
		}
		begin := time.Now()
		container, err := node.Create(garden.ContainerSpec{Image: image})
		if err != nil {
			return err
		}
		b.report.add("create on an image of 5 layers, pool 0", time.Since(begin))
		if err := node.Destroy(container.Handle()); err != nil {
			return err
		}
		// The last use is let go of after the destroy's answer.
		time.Sleep(200 * time.Millisecond)
	}
	unpacked := float64(len(base)+pulledLayers*layerBytes) / 1e6
	b.report.note("pull of 5 layers, cold", "%.0f MB unpacked, from a registry beside it", unpacked)
	return nil
}

// images is a call of gardend's own, of whose answer the end holds a text.
func (n *node) images(call, body, end string) error {
	address := "http://" + n.server.Address + "/gardend/v1/images/" + call
	answer, err := http.Post(address, "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if !strings.Contains(string(said), end) {
		return fmt.Errorf("%s: %s: %s", call, answer.Status, said)
	}
	return nil
}
