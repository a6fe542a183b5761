//! The system calls that unprivileged places may make: what container engines allow by default.
//!
//! An allow-list; what is not on it fails with EPERM. Not on it, on purpose: keyctl, add_key and
//! request_key (all places share one kernel uid and its keyring), bpf, perf_event_open, io_uring,
//! mount and namespace calls. New namespaces cannot be made: clone's flags are looked at, and
//! clone3, whose flags a filter cannot see, does not exist here (ENOSYS makes libraries fall back
//! to clone). Source of the facts: the default profile that Docker documents
//! (<https://docs.docker.com/engine/security/seccomp/>), for the capabilities that a place has; the
//! same calls as in <https://github.com/moby/profiles> of June 2026. As there, 32-bit programs reach
//! every family of sockets by `socketcall`, whose arguments no filter can see and which glibc needs.

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Seccomp {
    default_action: &'static str,
    default_errno_ret: u32,
    architectures: &'static [&'static str],
    syscalls: Vec<Rule>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<&'static str>,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno_ret: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Arg>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Arg {
    index: u32,
    value: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_two: Option<u64>,
    op: &'static str,
}

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// linux/sched.h: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NEW_NAMESPACES: u64 = 0x7E02_0000;
/// The kernel's own cryptography: no program needs it, and it has made users root (<https://copy.fail/>).
const AF_ALG: u64 = 38;
/// Virtual machine sockets reach the hypervisor, past every network namespace.
const AF_VSOCK: u64 = 40;
/// Plain Linux, 32-bit addresses (uname26 or not), and "tell me".
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Each costs the runtime 5 ms (crun) to 10 ms (runc) a place, on a busy machine with 2 cores, since
/// it compiles the list anew every time. So x32, which no distribution's kernel or program uses any
/// more, is not among them; 32-bit programs are.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[&str] = &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"];
#[cfg(target_arch = "x86_64")]
const OF_ARCHITECTURE: &str = "arch_prctl modify_ldt";
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[&str] = &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
#[cfg(target_arch = "aarch64")]
const OF_ARCHITECTURE: &str = "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls";

/// Allowed whatever the arguments. Runtimes skip names that their machine does not know.
const ALLOWED: &[&str] = &[
    // Files: their content
    "close close_range copy_file_range creat dup dup2 dup3 fadvise64 fadvise64_64 fallocate fcntl fcntl64 fdatasync \
     flock fsync ftruncate ftruncate64 ioctl _llseek lseek memfd_create memfd_secret open openat openat2 pipe pipe2 \
     pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readv sendfile sendfile64 splice sync \
     sync_file_range syncfs tee truncate truncate64 vmsplice write writev",
    // Files: names, attributes, links
    "access chdir chmod chown chown32 chroot faccessat faccessat2 fchdir fchmod fchmodat fchmodat2 fchown fchown32 \
     fchownat fgetxattr flistxattr fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 futimesat getcwd \
     getdents getdents64 getxattr getxattrat lchown lchown32 lgetxattr link linkat listmount listxattr listxattrat \
     llistxattr lremovexattr lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat \
     readlink readlinkat removexattr removexattrat rename renameat renameat2 rmdir setxattr setxattrat stat stat64 \
     statfs statfs64 statmount statx symlink symlinkat umask unlink unlinkat utime utimensat utimensat_time64 utimes",
    // Waiting for descriptors, watching files
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd \
     eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy \
     io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect poll ppoll ppoll_time64 pselect6 \
     pselect6_time64 select signalfd signalfd4",
    // Memory
    "brk cachestat madvise map_shadow_stack membarrier mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap mseal \
     msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease process_vm_readv \
     process_vm_writev remap_file_pages",
    // Processes and threads
    "execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake getcpu \
     getpgid getpgrp getpid getppid getpriority get_robust_list getrlimit getrusage getsid get_thread_area gettid \
     ioprio_get ioprio_set landlock_add_rule landlock_create_ruleset landlock_restrict_self pidfd_open \
     pidfd_send_signal prctl prlimit64 ptrace restart_syscall rseq sched_getaffinity sched_getattr sched_getparam \
     sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval \
     sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield \
     seccomp setpgid setpriority setrlimit set_robust_list setsid set_thread_area set_tid_address ugetrlimit \
     uretprobe vfork wait4 waitid waitpid",
    // Users, groups and capabilities
    "capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32 \
     getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups \
     setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32",
    // Signals
    "kill pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
     rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn tgkill tkill",
    // Time
    "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
     clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create timer_delete \
     timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
     timerfd_gettime64 timerfd_settime timerfd_settime64 times",
    // Sockets
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 \
     recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair",
    // Messages, semaphores and memory between processes
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 \
     mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget",
    // The machine
    "getrandom sysinfo uname",
    OF_ARCHITECTURE,
];

/// The profile of an unprivileged place.
pub(super) fn profile() -> Seccomp {
    let names = ALLOWED.iter().flat_map(|group| group.split_ascii_whitespace()).collect();
    let mut syscalls = vec![
        allow(names, Vec::new()),
        socket("SCMP_CMP_LT", AF_ALG),
        socket("SCMP_CMP_EQ", AF_ALG + 1),
        socket("SCMP_CMP_GT", AF_VSOCK),
        allow(
            vec!["clone"],
            vec![Arg { index: 0, value: NEW_NAMESPACES, value_two: Some(0), op: "SCMP_CMP_MASKED_EQ" }],
        ),
        Rule { names: vec!["clone3"], action: "SCMP_ACT_ERRNO", errno_ret: Some(ENOSYS), args: Vec::new() },
    ];
    syscalls
        .extend(PERSONALITIES.map(|value| {
            allow(vec!["personality"], vec![Arg { index: 0, value, value_two: None, op: "SCMP_CMP_EQ" }])
        }));
    Seccomp { default_action: "SCMP_ACT_ERRNO", default_errno_ret: EPERM, architectures: ARCHITECTURES, syscalls }
}

/// What a place may do besides that has mounts of its own to make, in its own user namespace: what
/// a container runtime within it calls.
const WITH_MOUNTS: &[&str] = &[
    "clone clone3 unshare setns sethostname setdomainname",
    "mount mount_setattr move_mount open_tree open_tree_attr fsconfig fsmount fsopen fspick pivot_root umount umount2 \
     open_by_handle_at",
];
/// As if the kernel had none. All places share one kernel uid and its keyring, and a runtime that
/// cannot have a keyring does without.
const KEYRINGS: [&str; 3] = ["add_key", "keyctl", "request_key"];

/// The profile of a place that has mounts of its own to make.
pub(super) fn profile_with_mounts() -> Seccomp {
    let mut profile = profile();
    // What is allowed here in whole is not told apart by its arguments.
    profile.syscalls.retain(|rule| !rule.names.iter().any(|name| matches!(*name, "clone" | "clone3")));
    let further = WITH_MOUNTS.iter().flat_map(|group| group.split_ascii_whitespace()).collect();
    profile.syscalls.push(allow(further, Vec::new()));
    let names = KEYRINGS.to_vec();
    profile.syscalls.push(Rule { names, action: "SCMP_ACT_ERRNO", errno_ret: Some(ENOSYS), args: Vec::new() });
    profile
}

/// An operator's own profile, looked at as a runtime would: one that it refuses is told here, and
/// not by every container.
pub(super) fn parse(text: &[u8]) -> Result<Value, String> {
    let value: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if value.get("archMap").is_some() {
        return Err(
            "it is in Docker's own format (archMap, includes, excludes), which Docker resolves before a runtime \
                    sees it; write architectures and syscalls alone"
                .to_owned(),
        );
    }
    let profile: own::Profile = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    match profile.syscalls.iter().position(|rule| rule.names.is_empty() || rule.names.iter().any(String::is_empty)) {
        Some(index) => Err(format!("rule {index} of syscalls names no call")),
        None => Ok(value),
    }
}

/// All families but the two. (A rule for each that is not to be would have each allowed by the other.)
fn socket(op: &'static str, family: u64) -> Rule {
    allow(vec!["socket"], vec![Arg { index: 0, value: family, value_two: None, op }])
}

fn allow(names: Vec<&'static str>, args: Vec<Arg>) -> Rule {
    Rule { names, action: "SCMP_ACT_ALLOW", errno_ret: None, args }
}

/// The shape of `linux.seccomp` in a runtime spec:
/// <https://github.com/opencontainers/runtime-spec/blob/v1.2.0/config-linux.md#seccomp>.
mod own {
    use super::Deserialize;

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[expect(dead_code, reason = "looked at by being read")]
    pub(super) struct Profile {
        default_action: Action,
        default_errno_ret: Option<u32>,
        architectures: Option<Vec<String>>,
        flags: Option<Vec<String>>,
        listener_path: Option<String>,
        listener_metadata: Option<String>,
        #[serde(default)]
        pub(super) syscalls: Vec<Rule>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[expect(dead_code, reason = "looked at by being read")]
    pub(super) struct Rule {
        pub(super) names: Vec<String>,
        action: Action,
        errno_ret: Option<u32>,
        #[serde(default)]
        args: Vec<Arg>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[expect(dead_code, reason = "looked at by being read")]
    pub(super) struct Arg {
        index: u32,
        value: u64,
        value_two: Option<u64>,
        op: Operator,
    }

    #[derive(Deserialize)]
    enum Action {
        #[serde(rename = "SCMP_ACT_KILL")]
        Kill,
        #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
        KillProcess,
        #[serde(rename = "SCMP_ACT_KILL_THREAD")]
        KillThread,
        #[serde(rename = "SCMP_ACT_TRAP")]
        Trap,
        #[serde(rename = "SCMP_ACT_ERRNO")]
        Errno,
        #[serde(rename = "SCMP_ACT_TRACE")]
        Trace,
        #[serde(rename = "SCMP_ACT_ALLOW")]
        Allow,
        #[serde(rename = "SCMP_ACT_LOG")]
        Log,
        #[serde(rename = "SCMP_ACT_NOTIFY")]
        Notify,
    }

    #[derive(Deserialize)]
    enum Operator {
        #[serde(rename = "SCMP_CMP_NE")]
        Ne,
        #[serde(rename = "SCMP_CMP_LT")]
        Lt,
        #[serde(rename = "SCMP_CMP_LE")]
        Le,
        #[serde(rename = "SCMP_CMP_EQ")]
        Eq,
        #[serde(rename = "SCMP_CMP_GE")]
        Ge,
        #[serde(rename = "SCMP_CMP_GT")]
        Gt,
        #[serde(rename = "SCMP_CMP_MASKED_EQ")]
        MaskedEq,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn allowed() -> Vec<&'static str> {
        ALLOWED.iter().flat_map(|group| group.split_ascii_whitespace()).collect()
    }

    #[test]
    fn nothing_is_listed_twice_and_nothing_is_no_name() {
        let names = allowed();
        assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len());
        assert!(
            names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
        );
    }

    #[test]
    fn what_reaches_beyond_the_place_is_not_allowed() {
        let names = allowed();
        for name in [
            "keyctl",
            "add_key",
            "request_key",
            "unshare",
            "setns",
            "clone",
            "clone3",
            "mount",
            "umount2",
            "open_tree",
            "move_mount",
            "fsopen",
            "pivot_root",
            "bpf",
            "perf_event_open",
            "io_uring_setup",
            "init_module",
            "finit_module",
            "kexec_load",
            "reboot",
            "swapon",
            "settimeofday",
            "open_by_handle_at",
            "userfaultfd",
            "pidfd_getfd",
            "socket",
            "personality",
            "sethostname",
        ] {
            assert!(!names.contains(&name), "{name}");
        }
    }
}
