// Package garden_test says what a Garden client may expect of gardend, by the client that Concourse and Cloud Foundry
// use. Each subtest is one behaviour, named in words. The server is the one at GARDEND_ADDRESS, or one that is
// started for the suite from GARDEND_BIN, with a containerd of its own (GARDEND_CONTAINERD_BINARY and
// GARDEND_RUNTIME choose which, and which runtime); then the suite ends with a census of what was left behind. All of
// that happens in a network namespace of the suite's own, whose uplink leads to a fake of the outside world; with
// GARDEND_NETWORK=none, for kernels that cannot do a container's network, what needs one is skipped.
// `go test -short` runs what needs neither much time nor much data.
package garden_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/garden/client"
	"code.cloudfoundry.org/garden/client/connection"
	"code.cloudfoundry.org/lager/v3"

	"github.com/gardend/gardend/tests/go/harness"
	"github.com/gardend/gardend/tests/go/harness/expect"
	"github.com/gardend/gardend/tests/go/inside"
)

// patience bounds everything that a test waits for and that does not say otherwise.
const patience = 30 * time.Second

// poolSize is how many blank places of a kind the suite's server keeps ready.
const poolSize = 2

// poolV6 is where containers of the suite's server get their IPv6 addresses.
const poolV6 = "fd67:6172:6465:6e::/64"

var (
	server  *harness.Server
	outside *harness.Outside
	gard    client.Client
	rootfs  *harness.Rootfs
	scratch string
)

func TestMain(m *testing.M) {
	// In a container: it is its own probe.
	if len(os.Args) > 1 && os.Args[1] == inside.Word {
		os.Exit(inside.Main(os.Args[2:]))
	}
	var err error
	if os.Getenv("GARDEND_ADDRESS") == "" {
		err = harness.OwnNetwork()
	}
	status := 0
	if err == nil {
		status, err = runSuite(m)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func runSuite(m *testing.M) (status int, err error) {
	// What clients make is theirs to give modes to.
	syscall.Umask(0o022)
	if scratch, err = os.MkdirTemp("", "gt"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(scratch)
	if rootfs, err = harness.NewRootfs(filepath.Join(scratch, "rootfs")); err != nil {
		return 1, err
	}
	if address := os.Getenv("GARDEND_ADDRESS"); address != "" {
		// In the network that it is in.
		server = &harness.Server{Address: address}
		gard = clientOf(address)
		return m.Run(), nil
	}

	arguments := []string{"--default-rootfs", rootfs.Folder(), "--max-containers", "100", "--pool-size", fmt.Sprint(poolSize)}
	if os.Getenv(harness.NetworkOption) != "none" {
		if outside, err = harness.NewOutside(nil); err != nil {
			return 1, err
		}
		arguments = append(arguments, "--network-pool-v6", poolV6, "--deny-network", harness.DeniedNetworks)
	}
	server, err = harness.Start(harness.Options{Arguments: arguments})
	if err != nil {
		return 1, err
	}
	gard = clientOf(server.Address)
	status = m.Run()
	err = errors.Join(server.Census(2*poolSize, patience), endWithin(5*time.Second))
	if status != 0 || err != nil {
		fmt.Fprintf(os.Stderr, "gardend's log ends:\n%s\n", server.Log())
	}
	return status, errors.Join(err, server.TearDown())
}

func endWithin(limit time.Duration) error {
	took, err := server.Terminate()
	if err == nil && took > limit {
		err = fmt.Errorf("gardend took %v to end on SIGTERM", took)
	}
	return err
}

func clientOf(address string) client.Client {
	return client.New(connection.New("tcp", address))
}

// clientOn is a client of a server that may be in another network.
func clientOn(server *harness.Server) client.Client {
	return client.New(connection.NewWithDialerAndLogger(server.Dial, lager.NewLogger("test")))
}

// behaviour is a subtest that runs beside others.
func behaviour(t *testing.T, name string, body func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		body(t)
	})
}

// long is a behaviour that takes seconds or moves much data; `go test -short` leaves it out.
func long(t *testing.T, name string, body func(t *testing.T)) {
	t.Helper()
	if !testing.Short() {
		behaviour(t, name, body)
	}
}

// own starts a server with options of its own and takes it away at the test's end.
func own(t *testing.T, arguments ...string) client.Client {
	t.Helper()
	if os.Getenv("GARDEND_ADDRESS") != "" {
		t.Skip("needs a server of its own, and the suite was told to use a given one")
	}
	another, err := harness.Start(harness.Options{Arguments: arguments})
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server's log ends:\n%s", another.Log())
		}
		_, err := another.Terminate()
		must(t, errors.Join(err, another.TearDown()))
	})
	return clientOf(another.Address)
}

var counter atomic.Int64

// unique is a name that no other test of this run uses.
func unique(prefix string) string {
	return fmt.Sprintf("%s-%d-%d", prefix, os.Getpid(), counter.Add(1))
}

// folder is a new folder of the test's.
func folder(t *testing.T) string {
	t.Helper()
	path, err := os.MkdirTemp(scratch, "t")
	must(t, err)
	must(t, os.Chmod(path, 0o755))
	t.Cleanup(func() { must(t, os.RemoveAll(path)) })
	return path
}

// root is a root file system of the test's, fit for containers of the kind.
func root(t *testing.T, privileged bool) string {
	t.Helper()
	path := filepath.Join(folder(t), "root")
	user := harness.MappedRoot
	if privileged {
		user = 0
	}
	must(t, rootfs.Copy(path, user))
	return path
}

// spec asks for an unprivileged container on a root file system of its own.
func spec(t *testing.T) garden.ContainerSpec {
	t.Helper()
	return garden.ContainerSpec{Handle: unique("c"), Image: garden.ImageRef{URI: "raw://" + root(t, false)}}
}

func privileged(t *testing.T) garden.ContainerSpec {
	t.Helper()
	return garden.ContainerSpec{
		Handle: unique("p"), Image: garden.ImageRef{URI: "raw://" + root(t, true)}, Privileged: true,
	}
}

// roots notes which folder of the host is the root of which container.
var roots = struct {
	sync.Mutex
	of map[string]string
}{of: map[string]string{}}

// create makes a container that is gone when the test ends.
func create(t *testing.T, spec garden.ContainerSpec) garden.Container {
	t.Helper()
	return createOn(t, gard, spec)
}

func createOn(t *testing.T, on client.Client, spec garden.ContainerSpec) garden.Container {
	t.Helper()
	container, err := on.Create(spec)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() { destroyOn(t, on, container.Handle()) })
	roots.Lock()
	defer roots.Unlock()
	roots.of[container.Handle()] = strings.TrimPrefix(spec.Image.URI, "raw://")
	return container
}

// destroyOn destroys a container that may be gone already.
func destroyOn(t *testing.T, on client.Client, handle string) {
	t.Helper()
	err := on.Destroy(handle)
	if errors.As(err, new(garden.ContainerNotFoundError)) {
		return
	}
	must(t, err)
}

// ended is what was seen of a process that has ended.
type ended struct {
	stdout string
	stderr string
	status int
}

// buffer is a writer that can be read while it is written to.
type buffer struct {
	mutex   chan struct{}
	content bytes.Buffer
}

func newBuffer() *buffer {
	return &buffer{mutex: make(chan struct{}, 1)}
}

func (b *buffer) Write(data []byte) (int, error) {
	b.mutex <- struct{}{}
	defer func() { <-b.mutex }()
	return b.content.Write(data)
}

func (b *buffer) String() string {
	b.mutex <- struct{}{}
	defer func() { <-b.mutex }()
	return b.content.String()
}

// awaits waits until the buffer holds a text.
func (b *buffer) awaits(t *testing.T, text string) {
	t.Helper()
	eventually(t, patience, func() error {
		if seen := b.String(); !strings.Contains(seen, text) {
			return fmt.Errorf("%q is not in %q", text, seen)
		}
		return nil
	})
}

func shell(script string) garden.ProcessSpec {
	return garden.ProcessSpec{Path: "/bin/sh", Args: []string{"-c", script}}
}

// start starts a process with these streams.
func start(t *testing.T, container garden.Container, spec garden.ProcessSpec, io garden.ProcessIO) garden.Process {
	t.Helper()
	process, err := container.Run(spec, io)
	if err != nil {
		t.Fatalf("run %s %q: %v", spec.Path, spec.Args, err)
	}
	return process
}

// run runs a process to its end.
func run(t *testing.T, container garden.Container, spec garden.ProcessSpec, stdin ...string) ended {
	t.Helper()
	stdout, stderr := newBuffer(), newBuffer()
	var input io.Reader
	if len(stdin) > 0 {
		input = strings.NewReader(strings.Join(stdin, ""))
	}
	process := start(t, container, spec, garden.ProcessIO{Stdin: input, Stdout: stdout, Stderr: stderr})
	status := wait(t, process)
	return ended{stdout: stdout.String(), stderr: stderr.String(), status: status}
}

// sh runs a script that must succeed, and returns what it wrote.
func sh(t *testing.T, container garden.Container, script string) string {
	t.Helper()
	result := run(t, container, shell(script))
	if result.status != 0 {
		t.Fatalf("%s: status %d, stdout %q, stderr %q", script, result.status, result.stdout, result.stderr)
	}
	return result.stdout
}

// wait waits for a process, within patience.
func wait(t *testing.T, process garden.Process) int {
	t.Helper()
	status, err := waited(process, patience)
	if err != nil {
		t.Fatalf("wait for process %s: %v", process.ID(), err)
	}
	return status
}

var errTooLong = errors.New("the process's end was not reported in time")

func waited(process garden.Process, limit time.Duration) (int, error) {
	type outcome struct {
		status int
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		status, err := process.Wait()
		done <- outcome{status, err}
	}()
	select {
	case seen := <-done:
		return seen.status, seen.err
	case <-time.After(limit):
		return 0, fmt.Errorf("%w: %v", errTooLong, limit)
	}
}

// eventually asks again until there is no complaint.
func eventually(t *testing.T, limit time.Duration, complaint func() error) {
	t.Helper()
	end := time.Now().Add(limit)
	for {
		err := complaint()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %v", limit, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// listed says whether a container is in the list.
func listed(t *testing.T, handle string) bool {
	t.Helper()
	containers, err := gard.Containers(nil)
	must(t, err)
	for _, container := range containers {
		if container.Handle() == handle {
			return true
		}
	}
	return false
}

// What tests check with, by short names.
var (
	must    = expect.Must
	holds   = expect.Holds
	refused = expect.Refused
)

// equal is a function of its own: one of any type cannot be in a variable.
func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	expect.Equal(t, what, got, want)
}

// cuttable is a client whose connections can be cut, and the scissors.
func cuttable() (client.Client, *harness.Dialer) {
	dialer := harness.NewDialer(server)
	return client.New(connection.NewWithDialerAndLogger(dialer.Dial, lager.NewLogger("test"))), dialer
}

// on is the same container by another client.
func on(t *testing.T, other client.Client, container garden.Container) garden.Container {
	t.Helper()
	found, err := other.Lookup(container.Handle())
	must(t, err)
	return found
}
