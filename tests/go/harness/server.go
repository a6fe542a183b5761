// Package harness starts a gardend of the test's own (own folders, port, containerd), counts what is on the
// machine, and takes everything away again. It ends only what it started.
package harness

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// readyDeadline bounds the time from start to "ready", a cold managed containerd included.
const readyDeadline = 60 * time.Second

// Options say how a server of one's own is to run. The zero value is a server with defaults.
type Options struct {
	// Arguments go to `gardend serve` after those that the harness sets.
	Arguments []string
	// Folder holds the server's folders; a new temporary one where empty.
	Folder string
	// Namespace is the network that it runs in; the caller's own where nil.
	Namespace *Namespace
}

// Server is a running gardend.
type Server struct {
	// Address is HOST:PORT.
	Address string
	// Folder holds everything of this server; empty where somebody else started it.
	Folder string

	command   *exec.Cmd
	namespace *Namespace
	exited    chan struct{}
	exit      error
	before    host
}

// Binary is the gardend that tests run: GARDEND_BIN, or the debug build.
func Binary() (string, error) {
	if path := os.Getenv("GARDEND_BIN"); path != "" {
		return path, nil
	}
	path := filepath.Join(ProjectRoot(), "target", "debug", "gardend")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("no gardend to test: build it and name it in GARDEND_BIN (%w)", err)
	}
	return path, nil
}

// ProjectRoot is the folder of the project's Makefile.
func ProjectRoot() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}

// RunDir is where the server keeps what does not outlive a reboot.
func (s *Server) RunDir() string { return filepath.Join(s.Folder, "run") }

// StateDir is where the server keeps what outlives a reboot.
func (s *Server) StateDir() string { return filepath.Join(s.Folder, "state") }

// LogPath is the server's standard error.
func (s *Server) LogPath() string { return filepath.Join(s.Folder, "log") }

// arguments are the words after `gardend` for a server of this folder.
func (o Options) arguments(folder, listen string) []string {
	arguments := []string{
		"serve",
		"--listen", listen,
		"--state-dir", filepath.Join(folder, "state"),
		"--run-dir", filepath.Join(folder, "run"),
		"--containerd", "managed",
	}
	if o.Namespace == nil {
		arguments = append(arguments, apart(folder, o.Arguments)...)
	}
	return append(arguments, o.Arguments...)
}

var (
	apartMutex sync.Mutex
	apartOnes  []string
)

// apart gives servers that run in the same network addresses and ports of their own: the first has the defaults. A
// folder keeps what it has.
func apart(folder string, given []string) []string {
	if os.Getenv(NetworkOption) == "none" {
		return nil
	}
	apartMutex.Lock()
	defer apartMutex.Unlock()
	number := slices.Index(apartOnes, folder)
	if number < 0 {
		number = len(apartOnes)
		apartOnes = append(apartOnes, folder)
	}
	var arguments []string
	if !slices.Contains(given, "--network-pool") && number > 0 {
		arguments = append(arguments, "--network-pool", fmt.Sprintf("10.%d.0.0/16", 80+number))
	}
	if !slices.Contains(given, "--host-ports") && number > 0 {
		arguments = append(arguments, "--host-ports", fmt.Sprintf("%d-%d", 10000+100*number, 10099+100*number))
	}
	return arguments
}

// Start starts a gardend and waits until it says that it serves.
func Start(options Options) (*Server, error) {
	binary, err := Binary()
	if err != nil {
		return nil, err
	}
	folder := options.Folder
	if folder == "" {
		// Short: unix sockets' names end at 107 bytes.
		if folder, err = newFolder(); err != nil {
			return nil, err
		}
	}
	server := &Server{Folder: folder, namespace: options.Namespace, exited: make(chan struct{})}
	log, err := os.OpenFile(server.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()

	server.command = exec.Command(binary, options.arguments(folder, "127.0.0.1:0")...)
	server.command.Stderr = log
	server.command.Env = environment()
	stdout, err := server.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := server.within(server.command.Start); err != nil {
		return nil, err
	}
	ready := make(chan string, 1)
	go func() {
		readReady(stdout, ready)
		server.exit = server.command.Wait()
		close(server.exited)
	}()

	select {
	case server.Address = <-ready:
		if server.before, err = server.look(); err == nil {
			return server, nil
		}
		_ = server.command.Process.Kill()
	case <-server.exited:
		err = fmt.Errorf("gardend ended before it was ready: %v", server.exit)
	case <-time.After(readyDeadline):
		_ = server.command.Process.Kill()
		err = fmt.Errorf("gardend was not ready within %v", readyDeadline)
	}
	err = fmt.Errorf("%w; its log ends:\n%s", err, tail(server.LogPath()))
	return nil, errors.Join(err, server.TearDown())
}

// within does something in the network that the server runs in.
func (s *Server) within(what func() error) error {
	if s.namespace == nil {
		return what()
	}
	return s.namespace.Do(what)
}

// Run runs a program of the machine's in the network that the server runs in, and returns what it said.
func (s *Server) Run(program string, arguments ...string) (said string, err error) {
	err = s.within(func() error {
		said, err = command("", program, arguments...)
		return err
	})
	return said, err
}

// Dial connects to the server; the arguments are those that a Garden client's dialer gets, and say nothing.
func (s *Server) Dial(string, string) (conn net.Conn, err error) {
	err = s.within(func() error {
		conn, err = net.DialTimeout("tcp", s.Address, connectDeadline)
		return err
	})
	return conn, err
}

// Refused runs a gardend that is expected not to start, and returns what it said.
func Refused(options Options, deadline time.Duration) (said string, err error) {
	binary, err := Binary()
	if err != nil {
		return "", err
	}
	folder := options.Folder
	if folder == "" {
		if folder, err = newFolder(); err != nil {
			return "", err
		}
		server := &Server{Folder: folder}
		defer func() { err = errors.Join(err, server.TearDown()) }()
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	command := exec.CommandContext(ctx, binary, options.arguments(folder, "127.0.0.1:0")...)
	command.Env = environment()
	output, err := command.CombinedOutput()
	var status *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return string(output), fmt.Errorf("gardend neither served nor gave up within %v: %s", deadline, output)
	case errors.As(err, &status):
		return string(output), nil
	case err == nil:
		return string(output), fmt.Errorf("gardend ended as if all were well: %s", output)
	default:
		return string(output), err
	}
}

// connectDeadline is for the machine, not for gardend, whose kernel takes connections: user-mode Linux on a busy machine
// stands still for seconds while it writes to a disk.
const connectDeadline = time.Minute

var addressInReady = regexp.MustCompile(`ready.*?((?:\d+\.){3}\d+:\d+)`)

// newFolder is a temporary folder that the root of an unprivileged container can pass through.
func newFolder() (string, error) {
	folder, err := os.MkdirTemp("", "gd")
	if err != nil {
		return "", err
	}
	return folder, os.Chmod(folder, 0o711)
}

// readReady hands over the address of the "ready" line, then reads on so that gardend never blocks.
func readReady(stdout io.Reader, ready chan<- string) {
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadString('\n')
		if found := addressInReady.FindStringSubmatch(line); found != nil {
			select {
			case ready <- found[1]:
			default:
			}
		}
		if err != nil {
			return
		}
	}
}

// NetworkOption is the variable that says "none" where this machine's kernel cannot do a container's network.
const NetworkOption = "GARDEND_NETWORK"

var chosen = []string{"GARDEND_CONTAINERD_BINARY", "GARDEND_RUNTIME", NetworkOption}

// environment is the test's own without what would configure gardend behind the options' back: which containerd and
// which runtime it uses is what may be chosen from outside, and that there is no network.
func environment() []string {
	var kept []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, "GARDEND_") || slices.Contains(chosen, name) {
			kept = append(kept, entry)
		}
	}
	return kept
}

// Pid is gardend's process.
func (s *Server) Pid() int { return s.command.Process.Pid }

// Terminate asks gardend to end and returns how long that took. Containers go on.
func (s *Server) Terminate() (time.Duration, error) {
	begin := time.Now()
	if err := s.command.Process.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	select {
	case <-s.exited:
	case <-time.After(30 * time.Second):
		_ = s.command.Process.Kill()
		<-s.exited
		return time.Since(begin), errors.New("gardend did not end within 30 s of SIGTERM")
	}
	if s.exit != nil {
		return time.Since(begin), fmt.Errorf("gardend ended badly on SIGTERM: %w", s.exit)
	}
	return time.Since(begin), nil
}

// Kill ends gardend by SIGKILL, if it runs. Containers go on.
func (s *Server) Kill() {
	_ = s.command.Process.Kill()
	<-s.exited
}

// Ctr runs containerd's own tool in gardend's namespace.
func (s *Server) Ctr(arguments ...string) (string, error) {
	program := "ctr"
	if containerd := os.Getenv("GARDEND_CONTAINERD_BINARY"); containerd != "" {
		program = filepath.Join(filepath.Dir(containerd), "ctr")
	}
	socket := filepath.Join(s.RunDir(), "containerd", "containerd.sock")
	command := exec.Command(program, append([]string{"--address", socket, "--namespace", "gardend"}, arguments...)...)
	var said bytes.Buffer
	command.Stderr = &said
	output, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("ctr %v: %w: %s", arguments, err, said.Bytes())
	}
	return string(output), nil
}

// TearDown ends the server with all that it started, and removes its folders.
func (s *Server) TearDown() error {
	if s.Folder == "" {
		return nil
	}
	script := filepath.Join(ProjectRoot(), "scripts", "teardown.sh")
	output, err := exec.Command(script, s.StateDir(), s.RunDir()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("teardown: %w: %s", err, output)
	}
	return os.RemoveAll(s.Folder)
}

// Log is the end of what gardend wrote.
func (s *Server) Log() string { return tail(s.LogPath()) }

func tail(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	const most = 8 << 10
	if len(content) > most {
		content = content[len(content)-most:]
	}
	return string(bytes.ToValidUTF8(content, []byte("?")))
}

// Dialer opens connections to a server and can cut all of them, as a client does that dies.
type Dialer struct {
	server *Server
	mutex  sync.Mutex
	open   []net.Conn
}

// NewDialer returns a dialer of connections to a server.
func NewDialer(server *Server) *Dialer { return &Dialer{server: server} }

// Dial opens one more connection.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	conn, err := d.server.Dial(network, address)
	if err != nil {
		return nil, err
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.open = append(d.open, conn)
	return conn, nil
}

// Cut closes every connection that was opened.
func (d *Dialer) Cut() {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	for _, conn := range d.open {
		_ = conn.Close()
	}
	d.open = nil
}
