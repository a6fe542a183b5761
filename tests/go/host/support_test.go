// Package host_test says what a Garden client may expect of `gardend serve --backend host`: containers as plain
// processes in folders, started by root and by a user without any rights. GARDEND_BIN names the gardend.
package host_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/garden/client"
	"code.cloudfoundry.org/garden/client/connection"

	"github.com/gardend/gardend/tests/go/harness"
	"github.com/gardend/gardend/tests/go/harness/expect"
)

// patience bounds everything that a test waits for.
const patience = time.Minute

const (
	root   = 0
	nobody = 65534
)

// program is a copy of gardend that everybody may run.
var program string

func TestMain(m *testing.M) {
	if err := harness.OwnNetwork(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	syscall.Umask(0o022)
	status, err := runSuite(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func runSuite(m *testing.M) (int, error) {
	binary, err := harness.Binary()
	if err != nil {
		return 1, err
	}
	scratch, err := os.MkdirTemp("", "gh")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(scratch)
	program = filepath.Join(scratch, "gardend")
	content, err := os.ReadFile(binary)
	if err == nil {
		err = errors.Join(os.Chmod(scratch, 0o755), os.WriteFile(program, content, 0o755))
	}
	if err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// server is a gardend with folders of its own.
type server struct {
	client.Client
	user   uint32
	folder string
	state  string
	run    string

	command *exec.Cmd
	exited  chan struct{}
	log     *buffer
}

// newServer is one that does not run yet, in a new folder of its user's.
func newServer(t *testing.T, user uint32) *server {
	t.Helper()
	folder, err := os.MkdirTemp("", "gh")
	must(t, err)
	must(t, errors.Join(os.Chmod(folder, 0o755), os.Chown(folder, int(user), int(user))))
	s := &server{user: user, folder: folder, state: filepath.Join(folder, "state"), run: filepath.Join(folder, "run")}
	t.Cleanup(func() {
		s.kill()
		// What a test that failed has left.
		for _, pid := range s.processes() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		must(t, os.RemoveAll(folder))
	})
	return s
}

// start runs it until it says that it serves.
func (s *server) start(t *testing.T, arguments ...string) {
	t.Helper()
	if len(arguments) == 0 {
		arguments = []string{"--state-dir", s.state, "--run-dir", s.run}
	}
	s.command = s.serve(append([]string{"--listen", "127.0.0.1:0"}, arguments...)...)
	s.log = &buffer{}
	s.command.Stderr = s.log
	stdout, err := s.command.StdoutPipe()
	must(t, err)
	must(t, s.command.Start())
	ready, exited := make(chan string, 1), make(chan struct{})
	s.exited = exited
	command := s.command
	go func() {
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			if found := regexp.MustCompile(`^ready (\S+)$`).FindStringSubmatch(lines.Text()); found != nil {
				ready <- found[1]
			}
		}
		_ = command.Wait()
		close(exited)
	}()
	select {
	case address := <-ready:
		s.Client = client.New(connection.New("tcp", address))
	case <-exited:
		t.Fatalf("gardend ended before it was ready:\n%s", s.log)
	case <-time.After(patience):
		s.kill()
		t.Fatalf("gardend is not ready:\n%s", s.log)
	}
}

// serve is `gardend serve` by the server's user, who has nothing but a PATH and a home.
func (s *server) serve(arguments ...string) *exec.Cmd {
	command := exec.Command(program, append([]string{"serve", "--backend", "host"}, arguments...)...)
	command.Dir = "/"
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.folder, "SECRET=kept"}
	credential := &syscall.Credential{Uid: s.user, Gid: s.user, Groups: []uint32{}}
	command.SysProcAttr = &syscall.SysProcAttr{Credential: credential, Setpgid: true}
	return command
}

// kill ends gardend alone, at once.
func (s *server) kill() {
	if s.exited != nil {
		_ = s.command.Process.Kill()
		<-s.exited
	}
}

// processes are all that belong to one of its places, by their folders, and all that carry the mark of one.
func (s *server) processes() []int {
	var found []int
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || (s.command != nil && s.command.Process != nil && pid == s.command.Process.Pid) {
			continue
		}
		cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if strings.HasPrefix(cwd, s.folder+"/") || strings.HasPrefix(exe, s.folder+"/") {
			found = append(found, pid)
		}
	}
	return found
}

// leftovers are what remains of containers when there are none.
func (s *server) leftovers() error {
	var found []string
	for _, folder := range []string{
		filepath.Join(s.state, "host", "containers"), filepath.Join(s.state, "host", "links"),
		filepath.Join(s.run, "places"), filepath.Join(s.run, "spool"),
	} {
		entries, _ := os.ReadDir(folder)
		for _, entry := range entries {
			found = append(found, filepath.Join(folder, entry.Name()))
		}
	}
	for _, pid := range s.processes() {
		command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		found = append(found, fmt.Sprintf("process %d: %q", pid, command))
	}
	if len(found) > 0 {
		return fmt.Errorf("left over: %s", strings.Join(found, ", "))
	}
	return nil
}

// path is a file of a container's, on the machine.
func path(t *testing.T, container garden.Container, inside string) string {
	t.Helper()
	info, err := container.Info()
	must(t, err)
	folder, err := os.Readlink(filepath.Join(info.ContainerPath, "root"))
	must(t, err)
	return filepath.Join(folder, inside)
}

// both runs a behaviour on a gardend of root's and on one of a user without rights.
func both(t *testing.T, name string, body func(t *testing.T, s *server)) {
	t.Helper()
	for user, of := range map[uint32]string{root: "root", nobody: "nobody"} {
		t.Run(name+", as "+of, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, user)
			s.start(t)
			body(t, s)
			for _, container := range containers(t, s) {
				must(t, s.Destroy(container.Handle()))
			}
			eventually(t, s.leftovers)
			if t.Failed() {
				t.Logf("the server's log:\n%s", s.log)
			}
		})
	}
}

func containers(t *testing.T, s *server) []garden.Container {
	t.Helper()
	found, err := s.Containers(nil)
	must(t, err)
	return found
}

var counter atomic.Int64

func create(t *testing.T, s *server, spec garden.ContainerSpec) garden.Container {
	t.Helper()
	if spec.Handle == "" {
		spec.Handle = fmt.Sprintf("c-%d", counter.Add(1))
	}
	container, err := s.Create(spec)
	if err != nil {
		t.Fatalf("create: %v; the server's log:\n%s", err, s.log)
	}
	return container
}

func shell(script string) garden.ProcessSpec {
	return garden.ProcessSpec{Path: "sh", Args: []string{"-c", script}}
}

// ended is what was seen of a process that has ended.
type ended struct {
	stdout string
	stderr string
	status int
}

func start(t *testing.T, container garden.Container, spec garden.ProcessSpec, io garden.ProcessIO) garden.Process {
	t.Helper()
	process, err := container.Run(spec, io)
	if err != nil {
		t.Fatalf("run %q: %v", spec.Args, err)
	}
	return process
}

func run(t *testing.T, container garden.Container, spec garden.ProcessSpec, stdin ...string) ended {
	t.Helper()
	stdout, stderr := &buffer{}, &buffer{}
	var input io.Reader
	if len(stdin) > 0 {
		input = strings.NewReader(strings.Join(stdin, ""))
	}
	process := start(t, container, spec, garden.ProcessIO{Stdin: input, Stdout: stdout, Stderr: stderr})
	return ended{status: wait(t, process), stdout: stdout.String(), stderr: stderr.String()}
}

// sh runs a script that must succeed, and returns what it wrote.
func sh(t *testing.T, container garden.Container, script string) string {
	t.Helper()
	seen := run(t, container, shell(script))
	if seen.status != 0 {
		t.Fatalf("%s: %+v", script, seen)
	}
	return seen.stdout
}

func wait(t *testing.T, process garden.Process) int {
	t.Helper()
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
		must(t, seen.err)
		return seen.status
	case <-time.After(patience):
		t.Fatalf("process %s does not end", process.ID())
		return 0
	}
}

// buffer is a writer that can be read while it is written to.
type buffer struct {
	mutex   sync.Mutex
	content bytes.Buffer
}

func (b *buffer) Write(data []byte) (int, error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.content.Write(data)
}

func (b *buffer) String() string {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.content.String()
}

func (b *buffer) awaits(t *testing.T, text string) {
	t.Helper()
	eventually(t, func() error {
		if seen := b.String(); !strings.Contains(seen, text) {
			return fmt.Errorf("%q is not in %q", text, seen)
		}
		return nil
	})
}

// eventually asks again until there is no complaint.
func eventually(t *testing.T, complaint func() error) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		err := complaint()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %v", patience, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func isAlive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
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
