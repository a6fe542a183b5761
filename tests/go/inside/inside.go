// Package inside is what a container's isolation is looked at from: the test binary itself, started in the container
// with the word "inside" and the name of a view, writes what it sees and what the kernel answers to each attempt.
// Nothing here succeeds at anything that would harm the machine, were it allowed.
package inside

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Word tells the test binary that it is to look from inside.
const Word = "inside"

// Main does what the words after Word name, and returns the status to exit with.
func Main(words []string) int {
	// What is tried, and what it leaves, is one thread's.
	runtime.LockOSThread()
	if len(words) == 0 {
		return usage()
	}
	switch words[0] {
	case "attempts":
		for _, attempt := range attempts {
			fmt.Printf("%s: %s\n", attempt.name, outcome(attempt.try()))
		}
	case "open":
		for _, path := range words[1:] {
			fmt.Printf("%s: %s\n", path, outcome(open(path, unix.O_RDONLY)))
		}
	case "leave-chroot":
		fmt.Println(outcome(leaveChroot()))
	case "peek":
		for _, attempt := range peeks(words[1]) {
			fmt.Printf("%s: %s\n", attempt.name, outcome(attempt.try()))
		}
	case "connect":
		for _, path := range words[1:] {
			fmt.Printf("%s: %s\n", path, outcome(connect(path)))
		}
	case "terminal":
		return terminal()
	case "reach", "serve", "talk", "drum", "transfer", "forge":
		if err := network(words); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	default:
		return usage()
	}
	return 0
}

func usage() int {
	fmt.Fprintln(os.Stderr, "inside: attempts | open PATH... | leave-chroot | peek PID | connect PATH... | terminal |\n"+
		"  reach MILLISECONDS TEXT END... | serve END... | talk ADDRESS TEXT | drum ADDRESS TEXT |\n"+
		"  transfer send|take ADDRESS BYTES | forge SOURCE ADDRESS TEXT")
	return 2
}

// outcome is the name of the kernel's error, or "done".
func outcome(err error) string {
	var number unix.Errno
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &number):
		return unix.ErrnoName(number)
	default:
		return err.Error()
	}
}

// call makes a system call for its error alone.
func call(number uintptr, arguments ...uintptr) error {
	var six [6]uintptr
	copy(six[:], arguments)
	_, _, errno := unix.RawSyscall6(number, six[0], six[1], six[2], six[3], six[4], six[5])
	if errno != 0 {
		return errno
	}
	return nil
}

func open(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == nil {
		err = unix.Close(fd)
	}
	return err
}

func readlink(path string) error {
	_, err := unix.Readlink(path, make([]byte, 256))
	return err
}

func connect(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
}

// leaveChroot tries the old way out of a root folder: to go up from a folder that is not below it.
func leaveChroot() error {
	var before, after unix.Stat_t
	if err := unix.Stat("/", &before); err != nil {
		return err
	}
	root, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "root")
	if err != nil {
		return err
	}
	defer os.Remove(folder)
	if err := unix.Chroot(folder); err != nil {
		return err
	}
	if err := unix.Fchdir(root); err != nil {
		return err
	}
	if err := unix.Chdir(strings.Repeat("../", 64)); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Stat("/", &after); err != nil {
		return err
	}
	if before.Dev != after.Dev || before.Ino != after.Ino {
		return fmt.Errorf("came out at %d:%d", after.Dev, after.Ino)
	}
	return errors.New("came out in the container's own root")
}

// terminal opens a terminal of one's own and writes through it.
func terminal() int {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	var other *os.File
	if err == nil {
		other, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err == nil {
		_, err = other.WriteString("through\n")
	}
	text := make([]byte, 64)
	length := 0
	if err == nil {
		length, err = master.Read(text)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Printf("%q\n", text[:length])
	return 0
}
