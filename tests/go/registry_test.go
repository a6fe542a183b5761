package garden_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/garden/client"

	"github.com/gardend/gardend/tests/go/harness"
)

// baseTar is the layer that images of the tests begin with.
var baseTar = sync.OnceValues(func() ([]byte, error) { return rootfs.Tar() })

// pulled is a server with registries of its own: Debian's, and one that does what it is told to.
type pulled struct {
	*testing.T
	server *harness.Server
	gard   client.Client
	real   *harness.Registry
	fake   *harness.FakeRegistry
	// Signs for those that are trusted.
	authority *harness.Authority
	base      []byte
}

// withRegistries starts a server that trusts a real registry and a fake one.
func withRegistries(t *testing.T, arguments ...string) *pulled {
	t.Helper()
	needsOwnServer(t)
	scratch := folder(t)
	authority, err := harness.NewAuthority(scratch)
	must(t, err)
	p := &pulled{T: t, authority: authority}
	p.real, err = harness.StartRegistry(scratch, authority)
	must(t, err)
	t.Cleanup(func() { _ = p.real.Stop() })
	p.fake, err = harness.NewFakeRegistry()
	must(t, err)
	t.Cleanup(p.fake.Stop)
	p.base, err = baseTar()
	must(t, err)
	p.start(append([]string{
		"--pool-size", "0", "--registry-ca", authority.Path, "--insecure-registry", p.fake.Host,
	}, arguments...), "")
	return p
}

func (p *pulled) start(arguments []string, folder string) {
	p.Helper()
	first := p.server == nil
	server, err := harness.Start(harness.Options{Arguments: arguments, Folder: folder})
	must(p.T, err)
	p.server, p.gard = server, clientOf(server.Address)
	if !first {
		return
	}
	p.Cleanup(func() {
		if p.Failed() {
			p.Logf("the server's log ends:\n%s", p.server.Log())
		}
		_, err := p.server.Terminate()
		must(p.T, errors.Join(err, p.server.TearDown()))
	})
}

// create makes a container that is gone when the test ends, whichever gardend there is by then.
func (p *pulled) create(t *testing.T, spec garden.ContainerSpec) garden.Container {
	t.Helper()
	container, err := p.gard.Create(spec)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() { destroyOn(t, p.gard, container.Handle()) })
	return container
}

// image is one on the tests' root file system.
func (p *pulled) image(env []string, layers ...harness.Layer) harness.Image {
	all := append([]harness.Layer{{Tar: p.base, Compression: harness.Gzip}}, layers...)
	return harness.NewImage(harness.ImageOptions{Layers: all, Config: map[string]any{"Env": env}})
}

// marked is an image that is told apart by a file.
func (p *pulled) marked(mark string) harness.Image {
	return p.image(nil, harness.Layer{Tar: harness.Tar(harness.File("mark", mark)), Compression: harness.Gzip})
}

// ofReal asks for an image of the real registry.
func (p *pulled) ofReal(name string) garden.ContainerSpec {
	return garden.ContainerSpec{Handle: unique("i"), Image: garden.ImageRef{
		URI: "docker://" + p.real.Host + "/" + name, Username: harness.RegistryUser, Password: harness.RegistryPassword,
	}}
}

// ofFake asks for an image of the fake one.
func (p *pulled) ofFake(name string) garden.ContainerSpec {
	return garden.ContainerSpec{Handle: unique("i"), Image: garden.ImageRef{URI: "docker://" + p.fake.Host + "/" + name}}
}

func (p *pulled) push(name, tag string, image harness.Image) {
	p.Helper()
	must(p.T, p.real.Push(name, tag, image))
}

// nothingHalfMade fails unless every lease and write of a pull is gone.
func (p *pulled) nothingHalfMade(t *testing.T) {
	t.Helper()
	eventually(t, patience, func() error {
		leases, err := p.server.Ctr("leases", "ls", "-q")
		if err != nil {
			return err
		}
		ingests, err := p.server.Ctr("content", "active")
		if err != nil {
			return err
		}
		if strings.Contains(leases, "-pull-") || strings.Contains(ingests, "sha256") {
			return fmt.Errorf("leases %q, writes %q", leases, ingests)
		}
		return nil
	})
}

// whole fails unless containerd has all parts of an image, as its tools see it. Of this image alone: the tools look at
// one after the other of a list, and others' tags move meanwhile.
func (p *pulled) whole(t *testing.T, name string, parts int) {
	t.Helper()
	check, err := p.server.Ctr("images", "check", "name=="+name)
	must(t, err)
	holds(t, check, name, fmt.Sprintf("complete (%d/%d)", parts, parts), "true")
}

func TestImages(t *testing.T) {
	p := withRegistries(t)
	t.Run("of a registry", func(t *testing.T) { imagesOfARegistry(t, p) })
	t.Run("in kind", func(t *testing.T) { kindsOfImages(t, p) })
	t.Run("by the command line", func(t *testing.T) { imagesByTheCommandLine(t, p) })
	t.Run("of a process", func(t *testing.T) { imagesOfProcesses(t, p) })
	p.nothingHalfMade(t)
}

func imagesOfARegistry(t *testing.T, p *pulled) {
	behaviour(t, "a tag is pulled by the password that comes with it, root's files are root's, and nothing is changed in it", func(t *testing.T) {
		p.push("tests/plain", "1.0", p.marked("one"))
		for _, privileged := range []bool{false, true} {
			asked := p.ofReal("tests/plain:1.0")
			asked.Privileged = privileged
			container := p.create(t, asked)
			equal(t, "owners", sh(t, container, "stat -c %u:%g / /bin /mark /etc/passwd | sort -u"), "0:0\n")
			equal(t, "alice's home", sh(t, container, "stat -c %U /home/alice"), "alice\n")
			equal(t, "mark", sh(t, container, "cat /mark; echo changed >/mark; rm /bin/uuencode; chown alice /etc/group"), "one")
			again := p.create(t, func() garden.ContainerSpec { asked := asked; asked.Handle = unique("i"); return asked }())
			equal(t, "mark", sh(t, again, "cat /mark; ls /bin/uuencode; stat -c %U /etc/group"), "one/bin/uuencode\nroot\n")
		}
	})
	behaviour(t, "the tag can stand after a #, and containerd's tools show the image", func(t *testing.T) {
		p.push("tests/hash", "2.0", p.marked("two"))
		asked := p.ofReal("tests/hash#2.0")
		equal(t, "mark", sh(t, p.create(t, asked), "cat /mark"), "two")
		images, err := p.server.Ctr("images", "ls", "-q")
		must(t, err)
		holds(t, images, p.real.Host+"/tests/hash:2.0")
		p.whole(t, p.real.Host+"/tests/hash:2.0", 3)
	})
	behaviour(t, "a digest means this image for ever, and oci:// is docker://", func(t *testing.T) {
		image := p.marked("by digest")
		p.push("tests/digest", "x", image)
		p.push("tests/digest", "y", p.marked("another"))
		asked := p.ofReal("tests/digest@" + image.Manifest.Digest())
		asked.Image.URI = strings.Replace(asked.Image.URI, "docker://", "oci://", 1)
		equal(t, "mark", sh(t, p.create(t, asked), "cat /mark"), "by digest")
	})
	behaviour(t, "a tag that is moved means the new image for new containers", func(t *testing.T) {
		p.push("tests/moved", "latest", p.marked("old"))
		before := p.create(t, p.ofReal("tests/moved"))
		p.push("tests/moved", "latest", p.marked("new"))
		after := p.create(t, p.ofReal("tests/moved"))
		equal(t, "marks", sh(t, before, "cat /mark")+sh(t, after, "cat /mark"), "oldnew")
	})
	behaviour(t, "the image's environment is below the container's, that below the process's; its user and folder are not used", func(t *testing.T) {
		image := harness.NewImage(harness.ImageOptions{
			Layers: []harness.Layer{{Tar: p.base}},
			Config: map[string]any{
				"Env": []string{"A=image", "B=image", "C=image", "PATH=/bin:/image"}, "User": "alice", "WorkingDir": "/tmp",
				"Entrypoint": []string{"/bin/false"}, "Cmd": []string{"x"},
			},
		})
		p.push("tests/env", "latest", image)
		asked := p.ofReal("tests/env")
		asked.Env = []string{"B=container", "C=container"}
		process := shell("echo $A $B $C $PATH $(id -un) $(pwd)")
		process.Env = []string{"C=process"}
		equal(t, "seen", run(t, p.create(t, asked), process).stdout, "image container process /bin:/image root /root\n")
	})
	behaviour(t, "a wrong password, and none, are refused in words, without the password", func(t *testing.T) {
		p.push("tests/secret", "latest", p.marked("secret"))
		asked := p.ofReal("tests/secret")
		asked.Image.Password = "wrong-and-secret"
		_, err := p.gard.Create(asked)
		refused(t, err, "pulling its image failed", p.real.Host+" refuses", "do not suffice")
		if strings.Contains(err.Error(), "wrong-and-secret") {
			t.Fatalf("the password is in the error: %v", err)
		}
		asked.Image.Username, asked.Image.Password = "", ""
		_, err = p.gard.Create(asked)
		refused(t, err, "pulling its image failed", p.real.Host+" refuses", "--registry-config")
	})
	behaviour(t, "one who may is no help to one who may not, though the image is here", func(t *testing.T) {
		p.push("tests/private", "latest", p.marked("private"))
		p.create(t, p.ofReal("tests/private"))
		asked := p.ofReal("tests/private")
		asked.Image.Password = "guessed"
		_, err := p.gard.Create(asked)
		refused(t, err, "refuses")
	})
	behaviour(t, "an image that is not there is refused by its name, and the handle is free again", func(t *testing.T) {
		asked := p.ofReal("tests/nothing:here")
		_, err := p.gard.Create(asked)
		refused(t, err, "pulling its image failed", asked.Image.URI, "manifest unknown")
		containers, err := p.gard.Containers(garden.Properties{"garden.state": "all"})
		must(t, err)
		for _, container := range containers {
			if container.Handle() == asked.Handle {
				t.Fatal("it is still listed")
			}
		}
		p.push("tests/nothing", "here", p.marked("now"))
		equal(t, "mark", sh(t, p.create(t, asked), "cat /mark"), "now")
	})
	behaviour(t, "a registry that is not there, or not trusted, is an error that says so", func(t *testing.T) {
		asked := p.ofReal("x")
		asked.Image.URI = "docker://127.0.0.1:1/x"
		_, err := p.gard.Create(asked)
		refused(t, err, "127.0.0.1:1", "refused")
		var unavailable garden.ServiceUnavailableError
		if !errors.As(err, &unavailable) {
			t.Fatalf("%T is no ServiceUnavailableError", err)
		}
		stranger, err := harness.NewAuthority(folder(t))
		must(t, err)
		unknown, err := harness.StartRegistry(folder(t), stranger)
		must(t, err)
		t.Cleanup(func() { _ = unknown.Stop() })
		asked.Image.URI = "docker://" + unknown.Host + "/x"
		_, err = p.gard.Create(asked)
		refused(t, err, unknown.Host, "--registry-ca")
	})
	behaviour(t, "what is wrong in a reference is named by its part, and nothing is asked", func(t *testing.T) {
		for uri, part := range map[string]string{
			"docker://" + p.fake.Host + "/Upper": "name \"Upper\"", "docker:///x:1#2": "two tags", "oci:///x": "needs a host",
			"docker://u:p@" + p.fake.Host + "/x": "image.username", "oci-layout://x": "three slashes",
		} {
			_, err := p.gard.Create(garden.ContainerSpec{Image: garden.ImageRef{URI: uri}})
			refused(t, err, "image.uri", part)
		}
	})
	behaviour(t, "an image in a folder, in OCI's layout", func(t *testing.T) {
		layout := folder(t)
		must(t, harness.WriteLayout(layout, "1.0", p.marked("layout")))
		for _, uri := range []string{"oci-layout://" + layout, "oci-layout://" + layout + ":1.0", "oci-layout://" + layout + "#1.0"} {
			container := p.create(t, garden.ContainerSpec{Handle: unique("i"), Image: garden.ImageRef{URI: uri}})
			equal(t, "mark", sh(t, container, "cat /mark"), "layout")
		}
		_, err := p.gard.Create(garden.ContainerSpec{Image: garden.ImageRef{URI: "oci-layout://" + layout + ":2.0"}})
		refused(t, err, "no image of the tag \"2.0\"", "1.0")
	})
	long(t, "passwords are neither in the ledger nor in the log", func(t *testing.T) {
		p.push("tests/forgotten", "latest", p.marked("x"))
		container := p.create(t, p.ofReal("tests/forgotten"))
		process := shell("true")
		process.Image = p.ofReal("tests/forgotten").Image
		equal(t, "status", run(t, container, process).status, 0)
		log, err := os.ReadFile(p.server.LogPath())
		must(t, err)
		files, err := filepath.Glob(filepath.Join(p.server.StateDir(), "ledger.db*"))
		must(t, err)
		for _, file := range files {
			content, err := os.ReadFile(file)
			must(t, err)
			log = append(log, content...)
		}
		if bytes.Contains(log, []byte(harness.RegistryPassword)) {
			t.Fatal("the password is there")
		}
	})
}

func kindsOfImages(t *testing.T, p *pulled) {
	for _, docker := range []bool{false, true} {
		kind := map[bool]string{false: "OCI", true: "Docker"}[docker]
		behaviour(t, kind+"'s manifests with layers that are plain and packed by gzip and zstd", func(t *testing.T) {
			// Layers of the kind's own: what the other kind had unpacked would not be unpacked again.
			image := harness.NewImage(harness.ImageOptions{Docker: docker, Layers: []harness.Layer{
				{Tar: p.base, Compression: harness.Gzip},
				{Tar: harness.Tar(harness.File("plain", "p"+kind)), Compression: harness.Plain},
				{Tar: harness.Tar(harness.File("gzip", "g"+kind)), Compression: harness.Gzip},
				{Tar: harness.Tar(harness.File("zstd", "z"+kind)), Compression: harness.Zstd},
			}})
			name := "tests/packed-" + strings.ToLower(kind)
			p.fake.Push(name, "latest", image)
			seen := sh(t, p.create(t, p.ofFake(name)), "cat /plain /gzip /zstd")
			equal(t, "files", seen, "p"+kind+"g"+kind+"z"+kind)
		})
		behaviour(t, kind+"'s indexes lead to the image for this machine", func(t *testing.T) {
			other := harness.NewImage(harness.ImageOptions{
				Docker: docker, Architecture: "s390x",
				Layers: []harness.Layer{{Tar: harness.Tar(harness.File("mark", "other"))}},
			})
			mine := harness.NewImage(harness.ImageOptions{
				Docker: docker, Layers: []harness.Layer{{Tar: p.base}, {Tar: harness.Tar(harness.File("mark", "mine"))}},
			})
			name := "tests/index-" + strings.ToLower(kind)
			p.push(name, "both", harness.NewIndex(docker, map[string]harness.Image{"s390x": other, goarch: mine}))
			equal(t, "mark", sh(t, p.create(t, p.ofReal(name+":both")), "cat /mark"), "mine")
			p.push(name, "other", harness.NewIndex(docker, map[string]harness.Image{"s390x": other}))
			_, err := p.gard.Create(p.ofReal(name + ":other"))
			refused(t, err, "it is for linux/s390x, and this machine is linux/"+goarch)
		})
	}
	behaviour(t, "files that a layer removes are gone, folders that it replaces are as they are there", func(t *testing.T) {
		layers := [][]byte{
			harness.Tar(harness.Folder("a"), harness.File("a/gone", "1"), harness.File("a/stays", "2"),
				harness.Folder("b"), harness.File("b/hidden", "3"), harness.Folder("b/deep"), harness.File("b/deep/hidden", "4"),
				harness.Folder("c"), harness.File("c/whole", "5")),
			harness.Tar(harness.File("a/.wh.gone", ""), harness.Folder("b"), harness.File("b/.wh..wh..opq", ""),
				harness.File("b/new", "6"), harness.File(".wh.c", "")),
			harness.Tar(harness.Folder("c"), harness.File("c/again", "7")),
		}
		var packed []harness.Layer
		for _, layer := range layers {
			packed = append(packed, harness.Layer{Tar: layer, Compression: harness.Gzip})
		}
		p.fake.Push("tests/whiteouts", "latest", p.image(nil, packed...))
		for _, privileged := range []bool{false, true} {
			asked := p.ofFake("tests/whiteouts")
			asked.Privileged = privileged
			container := p.create(t, asked)
			equal(t, "files", sh(t, container, "cd / && find a b c -type f | sort"), "a/stays\nb/new\nc/again\n")
			equal(t, "and on", sh(t, container, "rm -r /b && mkdir /b && ls /b; mv /c /d && ls /d"), "again\n")
		}
	})
	behaviour(t, "hard links, devices, owners, modes and attributes are as the layer has them", func(t *testing.T) {
		entry := func(header tar.Header, content string) harness.TarEntry {
			return harness.TarEntry{Header: header, Content: content}
		}
		layer := harness.Tar(
			entry(tar.Header{Typeflag: tar.TypeReg, Name: "one", Mode: 0o4755, Uid: 1001, Gid: 1002}, "linked"),
			entry(tar.Header{Typeflag: tar.TypeLink, Name: "other", Linkname: "one", Mode: 0o4755, Uid: 1001, Gid: 1002}, ""),
			entry(tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "one"}, ""),
			entry(tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o622}, ""),
			entry(tar.Header{Typeflag: tar.TypeReg, Name: "high", Mode: 0o600, Uid: 70000, Gid: 70000}, "x"),
			entry(tar.Header{Typeflag: tar.TypeReg, Name: "attributes", Format: tar.FormatPAX,
				PAXRecords: map[string]string{"SCHILY.xattr.user.colour": "green"}}, "y"),
		)
		p.fake.Push("tests/kinds", "latest", p.image(nil, harness.Layer{Tar: layer, Compression: harness.Gzip}))
		container := p.create(t, p.ofFake("tests/kinds"))
		equal(t, "seen", sh(t, container, "stat -c '%n %a %u:%g %h %F' /one /other /high /fifo; readlink /link"),
			"/one 4755 1001:1002 2 regular file\n/other 4755 1001:1002 2 regular file\n/high 600 70000:70000 1 regular file\n"+
				"/fifo 622 0:0 1 fifo\none\n")
		places, err := filepath.Glob("/proc/[0-9]*/root/attributes")
		must(t, err)
		found := false
		for _, place := range places {
			value := make([]byte, 16)
			if length, err := getxattr(place, "user.colour", value); err == nil {
				found = found || string(value[:length]) == "green"
			}
		}
		equal(t, "the attribute is there", found, true)
	})
	behaviour(t, "an image of more layers than fit into one option of a mount", func(t *testing.T) {
		var layers []harness.Layer
		for n := range 60 {
			layers = append(layers, harness.Layer{Tar: harness.Tar(harness.File(fmt.Sprintf("n/%d", n), "x"))})
		}
		p.fake.Push("tests/many", "latest", p.image(nil, layers...))
		equal(t, "files", sh(t, p.create(t, p.ofFake("tests/many")), "ls /n | wc -l"), "60\n")
	})
	behaviour(t, "what gardend cannot use is refused in words", func(t *testing.T) {
		for name, manifest := range map[string]harness.Blob{
			"schema 1":       {MediaType: "application/vnd.docker.distribution.manifest.v1+json", Data: []byte(`{"schemaVersion":1}`)},
			"no JSON":        {MediaType: harness.OCIManifest, Data: []byte(`{`)},
			"neither one":    {MediaType: harness.OCIManifest, Data: []byte(`{"schemaVersion":2}`)},
			"more than 8388": {MediaType: harness.OCIManifest, Data: bytes.Repeat([]byte(" "), 9<<20)},
		} {
			repository := unique("tests/unfit")
			p.fake.Push(repository, "latest", harness.Image{Manifest: manifest})
			_, err := p.gard.Create(p.ofFake(repository))
			refused(t, err, "pulling its image failed", repository, name)
		}
	})
}

// command runs the command line against the server, with docker's configuration in a folder.
func (p *pulled) command(t *testing.T, config string, arguments ...string) (stdout, stderr string, err error) {
	t.Helper()
	binary, err := harness.Binary()
	must(t, err)
	command := exec.Command(binary, append([]string{"--target", p.server.Address}, arguments...)...)
	command.Env = append(os.Environ(), "DOCKER_CONFIG="+config)
	var out, said bytes.Buffer
	command.Stdout, command.Stderr = &out, &said
	err = command.Run()
	return out.String(), said.String(), err
}

func imagesByTheCommandLine(t *testing.T, p *pulled) {
	behaviour(t, "the command line pulls an image, tells how far it is and who uses it, and what a prune would take", func(t *testing.T) {
		image := p.marked(unique("by hand"))
		p.push("tests/by-hand", "1", image)
		name := p.real.Host + "/tests/by-hand:1"
		config := folder(t)
		_, said, err := p.command(t, config, "pull", name)
		if err == nil {
			t.Fatal("it was pulled without a password")
		}
		holds(t, said, "refuses")
		text := fmt.Sprintf(`{"auths":{%q:{"username":%q,"password":%q}}}`, p.real.Host, harness.RegistryUser, harness.RegistryPassword)
		must(t, os.WriteFile(filepath.Join(config, "config.json"), []byte(text), 0o600))
		for _, words := range []string{"pulled ", "it was there already"} {
			shown, said, err := p.command(t, config, "pull", name)
			must(t, err)
			equal(t, "what was pulled", shown, name+" "+image.Manifest.Digest()+"\n")
			holds(t, said, words)
		}
		would, _, err := p.command(t, config, "prune", "--all", "--dry-run")
		must(t, err)
		holds(t, would, name)
		asked := p.ofReal("tests/by-hand:1")
		p.create(t, asked)
		listed, _, err := p.command(t, config, "images")
		must(t, err)
		for line := range strings.Lines(listed) {
			if strings.HasPrefix(line, name+" ") {
				holds(t, line, image.Manifest.Digest()[7:19], "now", asked.Handle)
				would, _, err = p.command(t, config, "prune", "--all", "--dry-run")
				must(t, err)
				if strings.Contains(would, name) {
					t.Fatalf("it is in use, and would be removed: %s", would)
				}
				return
			}
		}
		t.Fatalf("it is not listed: %s", listed)
	})
}

func imagesOfProcesses(t *testing.T, p *pulled) {
	behaviour(t, "a process has an image of a registry, its environment, and changes nothing in it", func(t *testing.T) {
		p.push("tests/process", "latest", p.image([]string{"WHO=image"}, harness.Layer{Tar: harness.Tar(harness.File("mark", "process"))}))
		for _, asked := range []garden.ContainerSpec{spec(t), privileged(t)} {
			asked.Env = []string{"WHO=container"}
			container := p.create(t, asked)
			process := shell("cat /mark; echo -$WHO; stat -c %U /bin; echo x >/mark; chown alice /bin")
			process.Image = p.ofReal("tests/process").Image
			for range 2 {
				equal(t, "stdout", run(t, container, process).stdout, "process-image\nroot\n")
			}
			eventually(t, patience, func() error {
				left, _ := filepath.Glob(filepath.Join(p.server.StateDir(), "layers", "processes", "*", "*"))
				if len(left) > 0 {
					return fmt.Errorf("left of its files: %v", left)
				}
				return nil
			})
		}
	})
	behaviour(t, "a process whose image is not there is refused, and its id is free", func(t *testing.T) {
		container := p.create(t, spec(t))
		process := shell("true")
		process.ID = "p"
		process.Image = p.ofReal("tests/no-such").Image
		_, err := container.Run(process, garden.ProcessIO{})
		refused(t, err, "pulling its image failed", "manifest unknown")
		process.Image = garden.ImageRef{}
		equal(t, "status", run(t, container, process).status, 0)
	})
	behaviour(t, "what runs in an image goes with its container, and its files too", func(t *testing.T) {
		p.push("tests/goes", "latest", p.marked("x"))
		asked := spec(t)
		container := p.create(t, asked)
		process := shell("echo x >/y; exec sleep 1000")
		process.Image = p.ofReal("tests/goes").Image
		start(t, container, process, garden.ProcessIO{})
		must(t, p.gard.Destroy(asked.Handle))
		eventually(t, patience, func() error {
			left, _ := filepath.Glob(filepath.Join(p.server.StateDir(), "layers", "processes", "*"))
			if len(left) > 0 {
				return fmt.Errorf("left: %v", left)
			}
			return nil
		})
	})
}
