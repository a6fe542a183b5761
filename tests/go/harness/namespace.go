package harness

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace. It goes when nothing in it runs any more and it was closed.
type Namespace struct {
	file *os.File
}

// ownNetwork marks a program that was executed anew in a namespace of its own.
const ownNetwork = "GARDEND_TEST_NETWORK"

// OwnNetwork puts the calling program, from its beginning, into a new network namespace with a loopback and nothing
// else, so that the machine's own links, rules and settings stay untouched, whatever a gardend does that it starts.
// Call it before anything else; it executes the program anew, as the same process.
func OwnNetwork() error {
	// Execution keeps the namespace of the thread that asks for it. Nor may this thread, which /proc/self shows, be
	// one that joins another namespace later.
	runtime.LockOSThread()
	if os.Getenv(ownNetwork) == "own" {
		return os.Unsetenv(ownNetwork)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("a network namespace of its own: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(self, os.Args, append(os.Environ(), ownNetwork+"=own"))
}

// NewNamespace makes one with a loopback and nothing else.
func NewNamespace() (made *Namespace, err error) {
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if err := loopbackUp(); err != nil {
			return err
		}
		made, err = thisNamespace()
		return err
	})
	return made, err
}

// thisNamespace is the one of the calling thread.
func thisNamespace() (*Namespace, error) {
	file, err := os.Open("/proc/thread-self/ns/net")
	return &Namespace{file}, err
}

// Close lets it go; what runs in it keeps it.
func (n *Namespace) Close() error { return n.file.Close() }

// Do does something in the namespace. Sockets that are made there belong to it for ever, and so do processes that are
// started; other goroutines do not.
func (n *Namespace) Do(what func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return what()
	})
}

// onThread does something on a thread that is not used for anything else afterwards.
func onThread(what func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		done <- what()
	}()
	return <-done
}

// Run runs a program of the machine's in the namespace, and returns what it said.
func (n *Namespace) Run(program string, arguments ...string) (said string, err error) {
	err = n.Do(func() error {
		said, err = command("", program, arguments...)
		return err
	})
	return said, err
}

// command runs a program with this input to its end.
func command(input, program string, arguments ...string) (string, error) {
	run := exec.Command(program, arguments...)
	run.Stdin = strings.NewReader(input)
	output, err := run.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", program, strings.Join(arguments, " "), err, output)
	}
	return string(output), err
}

// loopbackUp is for the namespace of the calling thread.
func loopbackUp() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request)
}
