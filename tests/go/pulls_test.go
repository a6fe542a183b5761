package garden_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"

	"github.com/gardend/gardend/tests/go/harness"
)

// slowly serves a blob in parts, until it is told to go on.
type slowly struct {
	begun chan struct{}
	goOn  chan struct{}
	once  sync.Once
	gone  atomic.Int32
}

func newSlowly() *slowly { return &slowly{begun: make(chan struct{}), goOn: make(chan struct{})} }

func (s *slowly) hold(digest string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, digest) {
			return false
		}
		s.once.Do(func() { close(s.begun) })
		select {
		case <-s.goOn:
			return false
		case <-r.Context().Done():
			s.gone.Add(1)
			return true
		}
	}
}

func TestPullsThatGoWrong(t *testing.T) {
	fresh := func(t *testing.T, arguments ...string) (*pulled, harness.Image, string) {
		p := withRegistries(t, arguments...)
		noise := strings.Repeat(unique("noise"), 200_000)
		image := p.image(nil, harness.Layer{Tar: harness.Tar(harness.File("mark", "whole"), harness.File("noise", noise))})
		p.fake.Push("tests/x", "latest", image)
		return p, image, image.Layers[1]
	}
	behaviour(t, "a layer that breaks off is gone on with where it broke", func(t *testing.T) {
		p, _, layer := fresh(t)
		var broken atomic.Int32
		p.fake.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, layer) || broken.Add(1) > 2 {
				return false
			}
			cut(w, r, 400_000)
			return true
		})
		equal(t, "mark", sh(t, p.create(t, p.ofFake("tests/x")), "cat /mark"), "whole")
		asked := p.fake.Seen(http.MethodGet, layer)
		equal(t, "requests", len(asked), 3)
		for _, request := range asked[1:] {
			holds(t, request.Header.Get("Range"), "bytes=")
		}
	})
	behaviour(t, "a registry that cannot begin in the middle is asked for the whole", func(t *testing.T) {
		p, _, layer := fresh(t)
		var asked atomic.Int32
		p.fake.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, layer) {
				return false
			}
			r.Header.Del("Range")
			if asked.Add(1) > 1 {
				return false
			}
			cut(w, r, 400_000)
			return true
		})
		equal(t, "mark", sh(t, p.create(t, p.ofFake("tests/x")), "cat /mark"), "whole")
	})
	behaviour(t, "a layer that always ends too early is an error, and nothing of it is left", func(t *testing.T) {
		p, _, layer := fresh(t)
		p.fake.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, layer) {
				return false
			}
			w.Header().Set("Content-Range", "bytes 0-9/10")
			w.WriteHeader(http.StatusOK)
			_, _ = w.Write(make([]byte, 10))
			return true
		})
		_, err := p.gard.Create(p.ofFake("tests/x"))
		refused(t, err, "pulling its image failed", layer, "ends after 10 of")
		p.nothingHalfMade(t)
		p.fake.Misbehave(nil)
		equal(t, "mark", sh(t, p.create(t, p.ofFake("tests/x")), "cat /mark"), "whole")
	})
	behaviour(t, "a layer, a configuration and a manifest that are something else than their digests say are refused", func(t *testing.T) {
		p, _, _ := fresh(t)
		for words, which := range map[string]func(harness.Image) harness.Blob{
			"something else than its digest says":   func(image harness.Image) harness.Blob { return image.Blobs[1] },
			"sends a configuration with the digest": func(image harness.Image) harness.Blob { return image.Blobs[2] },
			"sends a manifest with the digest":      func(image harness.Image) harness.Blob { return image.Manifest },
		} {
			// Each is an image of its own: what was stored of one is good.
			image := p.marked(unique("liar"))
			name := unique("tests/liar")
			p.fake.Push(name, "latest", image)
			lie := which(image)
			p.fake.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, lie.Digest()) {
					return false
				}
				w.Header().Set("Content-Type", lie.MediaType)
				_, _ = w.Write(append([]byte{^lie.Data[0]}, lie.Data[1:]...))
				return true
			})
			_, err := p.gard.Create(p.ofFake(name))
			refused(t, err, lie.Digest(), words)
		}
		p.nothingHalfMade(t)
		images, err := p.server.Ctr("images", "ls", "-q")
		must(t, err)
		equal(t, "images", images, "")
	})
	behaviour(t, "a layer that holds something else than the configuration says is refused", func(t *testing.T) {
		p, _, _ := fresh(t)
		honest := p.marked("honest")
		config := bytes.Replace(honest.Blobs[2].Data, []byte(harness.Digest(p.base)), []byte("sha256:"+strings.Repeat("0", 64)), 1)
		liar := harness.Blob{MediaType: honest.Blobs[2].MediaType, Data: config}
		manifest := bytes.Replace(honest.Manifest.Data, []byte(honest.Blobs[2].Digest()), []byte(liar.Digest()), 1)
		p.fake.Push("tests/liar", "latest", harness.Image{
			Manifest: harness.Blob{MediaType: harness.OCIManifest, Data: manifest}, Blobs: append(honest.Blobs[:2:2], liar),
		})
		_, err := p.gard.Create(p.ofFake("tests/liar"))
		refused(t, err, "holds "+harness.Digest(p.base), "its configuration says sha256:0000")
		p.nothingHalfMade(t)
	})
	behaviour(t, "a registry that is busy is asked again when it said", func(t *testing.T) {
		p, _, _ := fresh(t)
		var asked atomic.Int32
		p.fake.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
			switch asked.Add(1) {
			case 1:
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(http.StatusTooManyRequests)
			case 3:
				w.WriteHeader(http.StatusBadGateway)
			default:
				return false
			}
			return true
		})
		begin := time.Now()
		p.create(t, p.ofFake("tests/x"))
		if took := time.Since(begin); took < time.Second {
			t.Fatalf("it was asked again within %v", took)
		}
	})
	behaviour(t, "a redirection is followed, and no password is shown there", func(t *testing.T) {
		p, image, layer := fresh(t)
		storage, err := harness.NewFakeRegistry()
		must(t, err)
		t.Cleanup(storage.Stop)
		storage.Push("tests/x", "latest", image)
		p.fake.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
			user, password, _ := r.BasicAuth()
			switch {
			case user != "bob" || password != "secret":
				w.Header().Set("WWW-Authenticate", `Basic realm="tests"`)
				harness.Refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
			case strings.HasSuffix(r.URL.Path, layer):
				http.Redirect(w, r, "http://"+storage.Host+r.URL.Path, http.StatusTemporaryRedirect)
			default:
				return false
			}
			return true
		})
		asked := p.ofFake("tests/x")
		asked.Image.Username, asked.Image.Password = "bob", "secret"
		equal(t, "mark", sh(t, p.create(t, asked), "cat /mark"), "whole")
		without := 0
		for _, request := range append(p.fake.Seen(http.MethodHead, ""), p.fake.Seen(http.MethodGet, "")...) {
			if request.Header.Get("Authorization") == "" {
				without++
			}
		}
		equal(t, "requests without the password", without, 1)
		there := storage.Seen(http.MethodGet, layer)
		equal(t, "requests", len(there), 1)
		equal(t, "what was shown there", there[0].Header.Get("Authorization"), "")
	})
	behaviour(t, "a registry that wants a token is shown one, and its server the password", func(t *testing.T) {
		p, _, _ := fresh(t)
		var tokens atomic.Int32
		p.fake.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/token" {
				tokens.Add(1)
				user, password, _ := r.BasicAuth()
				query := r.URL.Query()
				if user != "bob" || password != "secret" || query.Get("service") != "it" || query.Get("scope") != "repository:tests/x:pull" {
					harness.Refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "who is that")
					return true
				}
				_, _ = w.Write([]byte(`{"token":"opensesame","expires_in":300}`))
				return true
			}
			if r.Header.Get("Authorization") != "Bearer opensesame" {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="it",scope="repository:tests/x:pull"`, p.fake.Host))
				harness.Refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
				return true
			}
			return false
		})
		asked := p.ofFake("tests/x")
		asked.Image.Username, asked.Image.Password = "bob", "wrong"
		_, err := p.gard.Create(asked)
		refused(t, err, "who is that", "do not suffice")
		asked.Image.Password = "secret"
		tokens.Store(0)
		for range 2 {
			asked.Handle = unique("i")
			p.create(t, asked)
		}
		equal(t, "tokens that were asked for", tokens.Load(), 1)
	})
	behaviour(t, "a registry by https leads nobody to http, neither for a layer nor for a token", func(t *testing.T) {
		p, image, layer := fresh(t)
		safe, err := harness.NewFakeRegistryOverTLS(p.authority)
		must(t, err)
		t.Cleanup(safe.Stop)
		safe.Push("tests/x", "latest", image)
		safe.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, layer) {
				http.Redirect(w, r, "http://"+p.fake.Host+r.URL.Path, http.StatusTemporaryRedirect)
				return true
			}
			return false
		})
		asked := p.ofFake("tests/x")
		asked.Image = garden.ImageRef{URI: "docker://" + safe.Host + "/tests/x", Username: "bob", Password: "secret"}
		_, err = p.gard.Create(asked)
		refused(t, err, "redirects from https to http")
		safe.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token"`, p.fake.Host))
			harness.Refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
			return true
		})
		_, err = p.gard.Create(asked)
		refused(t, err, "wants a token from 127.0.0.1 by http")
		equal(t, "requests by http", len(p.fake.Seen(http.MethodGet, ""))+len(p.fake.Seen(http.MethodHead, "")), 0)
		safe.Misbehave(nil)
		equal(t, "mark", sh(t, p.create(t, asked), "cat /mark"), "whole")
	})
	behaviour(t, "creates of one image at once pull it once", func(t *testing.T) {
		p, image, _ := fresh(t)
		var group sync.WaitGroup
		errs := make([]error, 8)
		for n := range errs {
			group.Go(func() { _, errs[n] = p.gard.Create(p.ofFake("tests/x")) })
		}
		group.Wait()
		must(t, errors.Join(errs...))
		for _, blob := range image.Blobs {
			equal(t, "requests for "+blob.MediaType, len(p.fake.Seen(http.MethodGet, blob.Digest())), 1)
		}
		equal(t, "requests for the manifest", len(p.fake.Seen(http.MethodGet, "/manifests/")), 1)
	})
	behaviour(t, "a client that goes away leaves the pull to the others, and the last one ends it", func(t *testing.T) {
		p, _, layer := fresh(t)
		slow := newSlowly()
		p.fake.Misbehave(slow.hold(layer))
		impatient := cutClient(p.server)
		go func() { _, _ = impatient.client.Create(p.ofFake("tests/x")) }()
		<-slow.begun
		patient := make(chan error, 1)
		asked := p.ofFake("tests/x")
		go func() { _, err := p.gard.Create(asked); patient <- err }()
		eventually(t, patience, func() error {
			if !strings.Contains(p.server.Log(), "waiting for a pull that is under way") {
				return errors.New("the other has not come yet")
			}
			return nil
		})
		impatient.dialer.Cut()
		eventually(t, patience, func() error {
			containers, err := p.gard.Containers(garden.Properties{"garden.state": "all"})
			if err == nil && len(containers) > 1 {
				err = errors.New("the one who went is still there")
			}
			return err
		})
		equal(t, "given up", slow.gone.Load(), 0)
		close(slow.goOn)
		must(t, <-patient)
		must(t, p.gard.Destroy(asked.Handle))

		p, _, layer = fresh(t)
		slow = newSlowly()
		p.fake.Misbehave(slow.hold(layer))
		impatient = cutClient(p.server)
		go func() { _, _ = impatient.client.Create(p.ofFake("tests/x")) }()
		<-slow.begun
		impatient.dialer.Cut()
		eventually(t, patience, func() error {
			if slow.gone.Load() == 0 {
				return errors.New("it is still pulled")
			}
			return nil
		})
		p.nothingHalfMade(t)
	})
	behaviour(t, "a pull tells how far it is, in the container's events and to who asked for it, until it has come", func(t *testing.T) {
		p, image, layer := fresh(t)
		slow := newSlowly()
		p.fake.Misbehave(slow.hold(layer))
		asked := p.ofFake("tests/x")
		created := make(chan error, 1)
		go func() { _, err := p.gard.Create(asked); created <- err }()
		<-slow.begun
		answer, err := http.Post("http://"+p.server.Address+"/gardend/v1/images/pull", "application/json",
			strings.NewReader(fmt.Sprintf(`{"uri":%q}`, asked.Image.URI)))
		must(t, err)
		defer answer.Body.Close()
		lines := bufio.NewScanner(answer.Body)
		size := len(image.Blobs[0].Data) + len(image.Blobs[1].Data)
		progress := fmt.Sprintf(`{"progress":{"bytes":%d,"total":%d,"layers":2,"unpacked":1}}`, len(image.Blobs[0].Data), size)
		for lines.Scan() && lines.Text() != progress {
		}
		equal(t, "the line that was waited for", lines.Text(), progress)
		var events []string
		eventually(t, patience, func() error {
			info, err := p.gard.BulkInfo([]string{asked.Handle})
			if err != nil {
				return err
			}
			events = info[asked.Handle].Info.Events
			if !strings.Contains(strings.Join(events, "\n"), "pulling "+asked.Image.URI) {
				return fmt.Errorf("events %q", events)
			}
			return nil
		})
		close(slow.goOn)
		must(t, <-created)
		last := ""
		for lines.Scan() {
			last = lines.Text()
		}
		holds(t, last, `"pulled"`, image.Manifest.Digest())
		info, err := p.gard.BulkInfo([]string{asked.Handle})
		must(t, err)
		told := strings.Join(info[asked.Handle].Info.Events, "\n")
		holds(t, told, "was pulled")
		if strings.Contains(told, "pulling ") {
			t.Fatalf("it is told of as if it were going on: %q", told)
		}
		must(t, p.gard.Destroy(asked.Handle))
	})
	behaviour(t, "a kill of gardend during a pull leaves nothing that the next one does not use or clean", func(t *testing.T) {
		p, _, layer := fresh(t)
		slow := newSlowly()
		p.fake.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, layer) && r.Header.Get("Range") == "" {
				w.Header().Set("Content-Length", "3000000")
				_, _ = w.Write(make([]byte, 100))
				_ = http.NewResponseController(w).Flush()
				slow.once.Do(func() { close(slow.begun) })
				<-r.Context().Done()
				return true
			}
			return false
		})
		asked := p.ofFake("tests/x")
		go func() { _, _ = p.gard.Create(asked) }()
		<-slow.begun
		p.server.Kill()
		p.fake.Misbehave(nil)
		p.start([]string{"--pool-size", "0", "--insecure-registry", p.fake.Host}, p.server.Folder)
		equal(t, "mark", sh(t, p.create(t, asked), "cat /mark"), "whole")
		p.nothingHalfMade(t)
	})
	behaviour(t, "a mirror is asked first, and the registry where the mirror does not help", func(t *testing.T) {
		mirror, err := harness.NewFakeRegistry()
		must(t, err)
		t.Cleanup(mirror.Stop)
		p, _, layer := fresh(t, "--registry-mirror", "127.0.0.1:1=http://"+mirror.Host+"/hub")
		mirror.Push("y", "latest", p.marked("of the mirror"))
		serveHub(mirror)
		asked := p.ofFake("x")
		asked.Image.URI = "docker://127.0.0.1:1/y"
		equal(t, "mark", sh(t, p.create(t, asked), "cat /mark"), "of the mirror")
		equal(t, "requests at the registry", len(p.fake.Seen(http.MethodGet, layer)), 0)
		asked.Handle, asked.Image.URI = unique("i"), "docker://127.0.0.1:1/z"
		_, err = p.gard.Create(asked)
		refused(t, err, "127.0.0.1:1")
	})
	behaviour(t, "passwords come from a docker configuration file, and helpers in it are refused by name", func(t *testing.T) {
		config := filepath.Join(folder(t), "config.json")
		must(t, os.WriteFile(config, []byte(`{"auths":{}}`), 0o600))
		p, _, _ := fresh(t, "--registry-config", config)
		p.push("tests/config", "latest", p.marked("by file"))
		asked := p.ofReal("tests/config")
		asked.Image.Username, asked.Image.Password = "", ""
		_, err := p.gard.Create(asked)
		refused(t, err, "refuses")
		text := fmt.Sprintf(`{"auths":{%q:{"username":%q,"password":%q}}}`, p.real.Host, harness.RegistryUser, harness.RegistryPassword)
		must(t, os.WriteFile(config, []byte(text), 0o600))
		equal(t, "mark", sh(t, p.create(t, asked), "cat /mark"), "by file")

		must(t, os.WriteFile(config, []byte(`{"credsStore":"desktop"}`), 0o600))
		said, err := harness.Refused(harness.Options{Arguments: []string{"--registry-config", config}}, patience)
		must(t, err)
		holds(t, said, "--registry-config", `"desktop"`)
	})
	behaviour(t, "a container of an image goes on over a restart, and its place is made again, without the registry", func(t *testing.T) {
		p, _, _ := fresh(t)
		asked := p.ofFake("tests/x")
		asked.Env = []string{"A=b"}
		container := p.create(t, asked)
		sh(t, container, "echo kept >/file")
		p.server.Kill()
		p.fake.Stop()
		p.start([]string{"--pool-size", "0"}, p.server.Folder)
		container, err := p.gard.Lookup(asked.Handle)
		must(t, err)
		equal(t, "files", sh(t, container, "cat /file /mark"), "kept\nwhole")
		info, err := container.Info()
		must(t, err)
		// Its init is killed from the host, and with it its place.
		init, err := os.ReadFile(filepath.Join(info.ContainerPath, "init.pid"))
		must(t, err)
		must(t, killPid(strings.Fields(string(init))[0]))
		eventually(t, patience, func() error {
			result, err := output(container, shell("cat /file /mark; echo -$A"))
			if err == nil && result != "kept\nwhole-b\n" {
				err = fmt.Errorf("it says %q", result)
			}
			return err
		})
	})
	behaviour(t, "containerd's collection, and a removal by its tools, take nothing that is in use", func(t *testing.T) {
		p, _, _ := fresh(t)
		asked := p.ofFake("tests/x")
		container := p.create(t, asked)
		_, err := p.server.Ctr("images", "rm", "--sync", p.fake.Host+"/tests/x:latest")
		must(t, err)
		equal(t, "files", sh(t, container, "cat /mark; /bin/ls -d /bin"), "whole/bin\n")
		info, err := container.Info()
		must(t, err)
		init, err := os.ReadFile(filepath.Join(info.ContainerPath, "init.pid"))
		must(t, err)
		must(t, killPid(strings.Fields(string(init))[0]))
		eventually(t, patience, func() error {
			result, err := output(container, shell("cat /mark"))
			if err == nil && result != "whole" {
				err = fmt.Errorf("it says %q", result)
			}
			return err
		})
		// And who asks for the image anew gets it.
		another := p.ofFake("tests/x")
		equal(t, "mark", sh(t, p.create(t, another), "cat /mark"), "whole")
	})
	behaviour(t, "containerd's collection in the midst of pulls takes nothing of them, by whatever names and while tags move", func(t *testing.T) {
		p, _, _ := fresh(t)
		ended := make(chan struct{})
		collected := make(chan error, 1)
		go func() {
			// The end of a lease by --sync is answered when containerd has collected.
			for n := 0; ; n++ {
				select {
				case <-ended:
					collected <- nil
					return
				default:
				}
				id := fmt.Sprintf("test-%d", n)
				_, err := p.server.Ctr("leases", "create", "--id", id)
				if err == nil {
					_, err = p.server.Ctr("leases", "delete", "--sync", id)
				}
				if err != nil {
					collected <- err
					return
				}
			}
		}()
		for round := range 5 {
			mark := fmt.Sprint("round", round)
			image := p.marked(mark)
			// Two names of one image, one of which was another's before.
			names := []string{"tests/moves", unique("tests/alias")}
			var group sync.WaitGroup
			marks := make([]string, len(names))
			errs := make([]error, len(names))
			for n, name := range names {
				p.fake.Push(name, "latest", image)
				group.Go(func() {
					asked := p.ofFake(name)
					container, err := p.gard.Create(asked)
					if err == nil {
						marks[n], err = output(container, shell("cat /mark; ls -d /bin/sh"))
					}
					errs[n] = errors.Join(err, p.gard.Destroy(asked.Handle))
				})
			}
			group.Wait()
			must(t, errors.Join(errs...))
			for n, name := range names {
				equal(t, "mark", marks[n], mark+"/bin/sh\n")
				p.whole(t, p.fake.Host+"/"+name+":latest", 3)
			}
		}
		close(ended)
		must(t, <-collected)
		p.nothingHalfMade(t)
	})
	behaviour(t, "an image whose name was taken away is pulled anew, and has it again", func(t *testing.T) {
		p, _, _ := fresh(t)
		name := p.fake.Host + "/tests/x:latest"
		p.create(t, p.ofFake("tests/x"))
		_, err := p.server.Ctr("images", "rm", "--sync", name)
		must(t, err)
		equal(t, "mark", sh(t, p.create(t, p.ofFake("tests/x")), "cat /mark"), "whole")
		p.whole(t, name, 3)
	})
	behaviour(t, "a registry that went away does not matter for what anybody may have and is here", func(t *testing.T) {
		p, _, _ := fresh(t)
		p.create(t, p.ofFake("tests/x"))
		p.fake.Stop()
		equal(t, "mark", sh(t, p.create(t, p.ofFake("tests/x")), "cat /mark"), "whole")
	})
}

func TestPullFigures(t *testing.T) {
	if testing.Short() {
		t.Skip("figures")
	}
	p := withRegistries(t)
	var layers []harness.Layer
	for n := range 4 {
		noise := make([]byte, 4<<20)
		for i := range noise {
			noise[i] = byte(i * (n + 3) >> 5)
		}
		layers = append(layers, harness.Layer{Tar: harness.Tar(harness.File(fmt.Sprintf("f%d", n), string(noise))), Compression: harness.Gzip})
	}
	p.push("tests/five", "latest", p.image(nil, layers...))
	create := func() time.Duration {
		begin := time.Now()
		p.create(t, p.ofReal("tests/five"))
		return time.Since(begin)
	}
	cold := create()
	var warm []time.Duration
	for range 5 {
		warm = append(warm, create())
	}
	fmt.Printf("create of an image of 5 layers, 18 MB unpacked, pool empty: cold %v, warm %v\n", cold.Round(time.Millisecond), warm)
}
