package inside

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attempt is one thing that is tried.
type attempt struct {
	name string
	try  func() error
}

const (
	newNamespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS
	// linux/personality.h: addresses that are not random
	addrNoRandomize = 0x0040000
	// linux/kcmp.h
	kcmpFile = 0
)

// nothing is a pointer that the kernel cannot follow: what is allowed ends in EFAULT, and does nothing.
const nothing = 1

func text(value string) uintptr {
	pointer, _ := unix.BytePtrFromString(value)
	kept = append(kept, pointer)
	return uintptr(unsafe.Pointer(pointer))
}

// kept keeps what the kernel is pointed to.
var kept []*byte

func raw(name string, number uintptr, arguments ...uintptr) attempt {
	return attempt{name, func() error { return call(number, arguments...) }}
}

func writes(path string) attempt {
	return attempt{"write " + path, func() error { return open(path, unix.O_WRONLY) }}
}

// attempts are tried in this order, and none depends on another.
var attempts = []attempt{
	// Mounts
	{"mount", func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") }},
	{"remount", func() error { return unix.Mount("", "/sys", "", unix.MS_REMOUNT|unix.MS_BIND, "") }},
	{"umount", func() error { return unix.Unmount("/proc", unix.MNT_DETACH) }},
	raw("pivot_root", unix.SYS_PIVOT_ROOT, text("/tmp"), text("/tmp")),
	raw("fsopen", unix.SYS_FSOPEN, text("tmpfs"), 0),
	raw("fspick", unix.SYS_FSPICK, nothing, 0, 0),
	raw("fsmount", unix.SYS_FSMOUNT, 0, 0, 0),
	raw("open_tree", unix.SYS_OPEN_TREE, 0, nothing, unix.OPEN_TREE_CLONE),
	raw("move_mount", unix.SYS_MOVE_MOUNT, 0, nothing, 0, nothing, 0),
	raw("mount_setattr", unix.SYS_MOUNT_SETATTR, 0, nothing, 0, nothing, 32),
	raw("swapon", unix.SYS_SWAPON, nothing, 0),
	raw("quotactl", unix.SYS_QUOTACTL, 0, nothing, 0, nothing),
	raw("open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, 0, nothing, 0),

	// Namespaces
	raw("unshare", unix.SYS_UNSHARE, 0),
	raw("unshare a user namespace", unix.SYS_UNSHARE, newNamespaces),
	{"setns", setns},
	// Of a thread, which the kernel refuses where it is allowed to look at it (EINVAL).
	raw("clone a user namespace", unix.SYS_CLONE, newNamespaces|unix.CLONE_THREAD),
	raw("clone3", unix.SYS_CLONE3, nothing, 88),

	// The kernel and the machine
	raw("init_module", unix.SYS_INIT_MODULE, nothing, 0, nothing),
	raw("finit_module", unix.SYS_FINIT_MODULE, 0, nothing, 0),
	raw("delete_module", unix.SYS_DELETE_MODULE, nothing, 0),
	raw("kexec_load", unix.SYS_KEXEC_LOAD, 0, 0, nothing, 0),
	raw("reboot", unix.SYS_REBOOT, 0, 0, 0, 0),
	raw("bpf", unix.SYS_BPF, 0, nothing, 1),
	raw("perf_event_open", unix.SYS_PERF_EVENT_OPEN, nothing, 0, 0, 0, 0),
	raw("io_uring_setup", unix.SYS_IO_URING_SETUP, 1, nothing),
	raw("userfaultfd", unix.SYS_USERFAULTFD, 0),
	raw("syslog", unix.SYS_SYSLOG, 10, 0, 0),
	raw("acct", unix.SYS_ACCT, nothing),
	raw("settimeofday", unix.SYS_SETTIMEOFDAY, 0, 0),
	raw("clock_settime", unix.SYS_CLOCK_SETTIME, 0, nothing),
	raw("sethostname", unix.SYS_SETHOSTNAME, nothing, 1),
	raw("setdomainname", unix.SYS_SETDOMAINNAME, nothing, 1),
	raw("vhangup", unix.SYS_VHANGUP),
	raw("personality", unix.SYS_PERSONALITY, addrNoRandomize),
	raw("fanotify_init", unix.SYS_FANOTIFY_INIT, 0, 0),
	raw("move_pages", unix.SYS_MOVE_PAGES, 0, 0, nothing, nothing, nothing, 0),
	raw("keyctl", unix.SYS_KEYCTL, 0, ^uintptr(2), 0),
	raw("add_key", unix.SYS_ADD_KEY, nothing, nothing, nothing, 0, 0),
	raw("request_key", unix.SYS_REQUEST_KEY, nothing, nothing, nothing, 0),
	{"socket of virtual machines", func() error { return socket(unix.AF_VSOCK) }},
	{"socket of the kernel's cryptography", func() error { return socket(unix.AF_ALG) }},

	// Other processes
	raw("pidfd_getfd", unix.SYS_PIDFD_GETFD, 0, 0, 0),
	raw("kcmp", unix.SYS_KCMP, 1, 1, kcmpFile, 0, 0),
	{"more than the hard limit", func() error { return raise(unix.RLIMIT_NOFILE) }},
	{"a lower oom_score_adj", func() error { return write("/proc/self/oom_score_adj", "-900") }},
	raw("a higher priority", unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, ^uintptr(4)),

	// Devices and set-id
	{"mknod of a memory device", func() error { return mknod(unix.S_IFCHR, 1, 1) }},
	{"mknod of a disk", func() error { return mknod(unix.S_IFBLK, 8, 0) }},
	{"mknod of /dev/null", func() error { return mknod(unix.S_IFCHR, 1, 3) }},
	{"mknod of a pipe", func() error { return mknod(unix.S_IFIFO, 0, 0) }},

	// What the kernel shows
	writes("/proc/sys/kernel/panic"),
	writes("/proc/sys/kernel/core_pattern"),
	writes("/proc/sys/vm/drop_caches"),
	writes("/proc/sysrq-trigger"),
	{"a new cgroup", newCgroup},
	{"joining a cgroup", joinCgroup},
	{"content of /proc/kcore", func() error { return hasContent("/proc/kcore") }},
	{"content of /proc/keys", func() error { return hasContent("/proc/keys") }},
	{"content of /proc/timer_list", func() error { return hasContent("/proc/timer_list") }},
	{"content of /proc/interrupts", func() error { return hasContent("/proc/interrupts") }},
	{"content of /sys/firmware", func() error { return hasContent("/sys/firmware") }},
}

// peeks are the ways into another process: by what /proc shows of it, and by its memory.
func peeks(pid string) []attempt {
	of := func(name string) string { return filepath.Join("/proc", pid, name) }
	number := 0
	for _, digit := range pid {
		number = 10*number + int(digit-'0')
	}
	return []attempt{
		{"attach", func() error { return unix.PtraceAttach(number) }},
		{"seize", func() error { return unix.PtraceSeize(number) }},
		{"read its memory", func() error {
			byte := make([]byte, 1)
			local := []unix.Iovec{{Base: &byte[0], Len: 1}}
			remote := []unix.RemoteIovec{{Base: nothing, Len: 1}}
			_, err := unix.ProcessVMReadv(number, local, remote, 0)
			return err
		}},
		{"read mem", func() error { return open(of("mem"), unix.O_RDONLY) }},
		{"write mem", func() error { return open(of("mem"), unix.O_WRONLY) }},
		{"read environ", func() error { return open(of("environ"), unix.O_RDONLY) }},
		{"read maps", func() error { return open(of("maps"), unix.O_RDONLY) }},
		{"list fd", func() error { return open(of("fd"), unix.O_RDONLY|unix.O_DIRECTORY) }},
		{"follow fd/3", func() error { return readlink(of("fd/3")) }},
		{"open fd/3", func() error { return open(of("fd/3"), unix.O_RDONLY) }},
		{"list map_files", func() error { return open(of("map_files"), unix.O_RDONLY|unix.O_DIRECTORY) }},
		{"follow exe", func() error { return readlink(of("exe")) }},
		{"open exe", func() error { return open(of("exe"), unix.O_RDONLY) }},
		{"follow root", func() error { return readlink(of("root")) }},
		{"open root/etc", func() error { return open(of("root/etc"), unix.O_RDONLY) }},
		{"chroot to root", func() error { return unix.Chroot(of("root")) }},
		{"chdir to cwd", func() error { return unix.Chdir(of("cwd")) }},
		{"follow ns/mnt", func() error { return readlink(of("ns/mnt")) }},
		{"open ns/mnt", func() error { return open(of("ns/mnt"), unix.O_RDONLY) }},
		{"write oom_score_adj", func() error { return open(of("oom_score_adj"), unix.O_WRONLY) }},
		{"write attr/exec", func() error { return open(of("attr/current"), unix.O_WRONLY) }},
	}
}

func setns() error {
	fd, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Setns(fd, 0)
}

func socket(family int) error {
	fd, err := unix.Socket(family, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Close(fd)
	}
	return err
}

func raise(resource int) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(resource, &limit); err != nil {
		return err
	}
	limit.Max++
	return unix.Prlimit(0, resource, &limit, nil)
}

func write(path, content string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(content))
	return err
}

func mknod(kind uint32, major, minor uint32) error {
	path := filepath.Join(os.TempDir(), "node")
	err := unix.Mknod(path, kind|0o666, int(unix.Mkdev(major, minor)))
	if err == nil {
		err = unix.Unlink(path)
	}
	return err
}

// aCgroup is a folder in which cgroups of the container could be made: of the first hierarchy that is mounted.
func aCgroup() (string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(table)) {
		before, after, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(before); strings.HasPrefix(after, "cgroup") && len(fields) > 4 {
			return fields[4], nil
		}
	}
	return "", unix.ENOENT
}

func newCgroup() error {
	folder, err := aCgroup()
	if err != nil {
		return err
	}
	folder = filepath.Join(folder, "new")
	if err = unix.Mkdir(folder, 0o755); err == nil {
		err = unix.Rmdir(folder)
	}
	return err
}

func joinCgroup() error {
	folder, err := aCgroup()
	if err != nil {
		return err
	}
	return open(filepath.Join(folder, "cgroup.procs"), unix.O_WRONLY)
}

var errEmpty = errors.New("empty")

// hasContent fails with "empty" where a file, or a folder, holds nothing.
func hasContent(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil || len(entries) > 0 {
			return err
		}
		return errEmpty
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if length, _ := file.Read(make([]byte, 1)); length > 0 {
		return nil
	}
	return errEmpty
}
