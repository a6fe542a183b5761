//! A process as Garden asks for it, in an init's words; and an init's refusal in Garden's.

use garden_init::wire::{self, Exit, ProcessKey, Request, SpawnFailure, SpawnSpec, WireError};
use gardend_controller::ports::SpawnError;
use gardend_controller::record::{ExitStatus, ProcessSpec, ProcessUid, RlimitResource};

/// Every resource that Garden names, as in getrlimit(2).
const RESOURCES: [(RlimitResource, libc::__rlimit_resource_t, &str); 15] = [
    (RlimitResource::As, libc::RLIMIT_AS, "as"),
    (RlimitResource::Core, libc::RLIMIT_CORE, "core"),
    (RlimitResource::Cpu, libc::RLIMIT_CPU, "cpu"),
    (RlimitResource::Data, libc::RLIMIT_DATA, "data"),
    (RlimitResource::Fsize, libc::RLIMIT_FSIZE, "fsize"),
    (RlimitResource::Locks, libc::RLIMIT_LOCKS, "locks"),
    (RlimitResource::Memlock, libc::RLIMIT_MEMLOCK, "memlock"),
    (RlimitResource::Msgqueue, libc::RLIMIT_MSGQUEUE, "msgqueue"),
    (RlimitResource::Nice, libc::RLIMIT_NICE, "nice"),
    (RlimitResource::Nofile, libc::RLIMIT_NOFILE, "nofile"),
    (RlimitResource::Nproc, libc::RLIMIT_NPROC, "nproc"),
    (RlimitResource::Rss, libc::RLIMIT_RSS, "rss"),
    (RlimitResource::Rtprio, libc::RLIMIT_RTPRIO, "rtprio"),
    (RlimitResource::Sigpending, libc::RLIMIT_SIGPENDING, "sigpending"),
    (RlimitResource::Stack, libc::RLIMIT_STACK, "stack"),
];

/// When an init lets a process go on to its exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At once.
    Now,
    /// Once it was released.
    Held,
}

/// The encoded request.
///
/// # Errors
/// What cannot be asked for.
pub fn request(start: Start, key: ProcessKey, env: &[String], spec: &ProcessSpec) -> Result<Vec<u8>, SpawnError> {
    let spec = wanted(env, spec)?;
    let request = match start {
        Start::Now => Request::Spawn { key, spec },
        Start::Held => Request::SpawnHeld { key, spec },
    };
    wire::encode(&request).map_err(encoding)
}

/// A request that cannot be encoded.
pub fn encoding(error: WireError) -> SpawnError {
    match error {
        WireError::TooLarge { bytes, limit } => SpawnError::TooLarge { bytes, limit },
        other => SpawnError::Other(other.to_string()),
    }
}

/// The process in an init's words.
///
/// # Errors
/// What cannot be asked for.
pub fn wanted(env: &[String], spec: &ProcessSpec) -> Result<SpawnSpec, SpawnError> {
    let texts = [&spec.path].into_iter().chain(&spec.args).chain(env).chain(&spec.env).chain(&spec.dir);
    if texts.into_iter().chain(&spec.user).any(|text| text.contains('\0')) {
        return Err(SpawnError::Other(format!(
            "process {:?}: its path, arguments, environment, folder and user cannot hold a NUL byte",
            spec.path
        )));
    }
    let bytes = |text: &String| text.clone().into_bytes();
    let number = |resource| RESOURCES.iter().find(|(known, ..)| *known == resource).map(|(_, number, _)| *number);
    Ok(SpawnSpec {
        path: bytes(&spec.path),
        args: spec.args.iter().map(bytes).collect(),
        env: env.iter().chain(&spec.env).map(bytes).collect(),
        dir: spec.dir.as_ref().map(bytes).unwrap_or_default(),
        user: spec.user.clone().unwrap_or_default(),
        rlimits: spec.rlimits.iter().filter_map(|limit| Some((number(limit.resource)?, limit.value))).collect(),
        tty: spec.tty.map(|size| (size.columns, size.rows)),
        // All that the place's init itself has.
        capabilities: u64::MAX,
    })
}

/// Why an init did not start a process, as clients know it.
pub fn refusal(failure: SpawnFailure, spec: &ProcessSpec) -> SpawnError {
    let program = spec.path.clone();
    match failure {
        SpawnFailure::NotFound => SpawnError::ExecutableNotFound { program },
        SpawnFailure::Exec { errno: libc::ENOENT, exists: false } => SpawnError::ExecutableNotFound { program },
        SpawnFailure::Exec { errno: libc::ENOENT, exists: true } => SpawnError::NotExecutable {
            program,
            reason: "missing interpreter: the program that its first line names, or its dynamic loader, is not in the container".into(),
        },
        SpawnFailure::Exec { errno: libc::E2BIG, .. } => SpawnError::NotExecutable {
            program,
            reason: "argument list too long: one argument or variable may have 128 KiB, all together a quarter of the stack's limit".into(),
        },
        SpawnFailure::Exec { errno, .. } => SpawnError::NotExecutable { program, reason: words(errno) },
        SpawnFailure::UnknownUser => SpawnError::UnknownUser { user: spec.user.clone().unwrap_or_else(|| "root".into()) },
        SpawnFailure::UnknownGroup { group } => SpawnError::UnknownGroup { group: printable(&group) },
        SpawnFailure::Dir { dir, errno } => {
            SpawnError::BadDir { dir: printable(&String::from_utf8_lossy(&dir)), reason: words(errno) }
        }
        SpawnFailure::Rlimit { resource, asked, ceiling } => {
            let known = RESOURCES.iter().find(|(_, number, _)| *number == resource);
            let resource = known.map_or_else(|| resource.to_string(), |(_, _, name)| (*name).to_owned());
            SpawnError::RlimitAboveCeiling { resource, asked, ceiling }
        }
        SpawnFailure::Duplicate => SpawnError::Other(format!("process {program:?}: its init knows one of that name already")),
        SpawnFailure::System { call, errno: libc::EAGAIN } if call.contains("fork") || call.contains("clone") => {
            SpawnError::Other(format!("process {program:?} could not be started: the container has as many processes as it may"))
        }
        // Of one that was held until its limits were in force.
        SpawnFailure::System { errno: libc::ECANCELED, .. } => SpawnError::Other(format!("process {program:?} {KILLED_HELD}")),
        SpawnFailure::System { call, errno } => {
            SpawnError::Other(format!("process {program:?} could not be started: {} failed: {}", printable(&call), words(errno)))
        }
        SpawnFailure::Malformed { reason } => {
            SpawnError::Other(format!("process {program:?} could not be started: its init did not take the request: {}", printable(&reason)))
        }
    }
}

/// What becomes of a held process where its limits leave nothing to start with: its first page there can be one too many.
pub const KILLED_HELD: &str =
    "was killed before its program began; its memory limit may be too small to start anything";

/// The process's uid as the protocol carries it.
pub fn key(process: &ProcessUid) -> ProcessKey {
    let mut key = [0; 16];
    let digits = process.as_str().as_bytes();
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        // A uid is 32 hexadecimal digits by construction.
        *byte = pair.iter().fold(0, |value, digit| value << 4 | (char::from(*digit).to_digit(16).unwrap_or(0) as u8));
    }
    ProcessKey(key)
}

/// And back.
pub fn uid(key: ProcessKey) -> Option<ProcessUid> {
    ProcessUid::parse(&key.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// How a process ended.
pub fn status(exit: Exit) -> ExitStatus {
    match exit {
        Exit::Code(code) => ExitStatus::Code(code),
        Exit::Signal(signal) => ExitStatus::Signal(signal),
    }
}

/// An errno, as people know it.
pub fn words(errno: i32) -> String {
    let known = match errno {
        libc::EACCES => "permission denied",
        libc::ENOEXEC => "exec format error",
        libc::ENOENT => "no such file or directory",
        libc::ENOTDIR => "not a directory",
        libc::EISDIR => "is a directory",
        libc::ELOOP => "too many levels of symbolic links",
        libc::ETXTBSY => "text file busy",
        libc::EPERM => "operation not permitted",
        libc::EROFS => "read-only file system",
        libc::ENOSPC => "no space left on device",
        libc::ENAMETOOLONG => "file name too long",
        libc::ENOMEM => "cannot allocate memory",
        libc::EINVAL => "invalid argument",
        libc::EMFILE | libc::ENFILE => "too many open files",
        _ => return std::io::Error::from_raw_os_error(errno).to_string(),
    };
    known.to_owned()
}

/// What an init says, as it can be shown: bounded, and without what could drive a terminal.
pub fn printable(text: &str) -> String {
    text.chars().take(1024).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use garden_init::wire::MAX_REQUEST;
    use gardend_controller::record::Rlimit;

    fn decoded(bytes: &[u8]) -> SpawnSpec {
        match wire::decode(bytes).unwrap() {
            Request::Spawn { spec, .. } => spec,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_process_s_environment_comes_after_the_container_s() {
        let spec = ProcessSpec { path: "sh".into(), env: vec!["A=2".into()], ..ProcessSpec::default() };
        let sent = decoded(&request(Start::Now, ProcessKey([1; 16]), &["A=1".into(), "B=1".into()], &spec).unwrap());
        assert_eq!(sent.env, [b"A=1".to_vec(), b"B=1".to_vec(), b"A=2".to_vec()]);
    }

    #[test]
    fn resources_are_numbered_as_the_kernel_does() {
        let rlimits = vec![
            Rlimit { resource: RlimitResource::Nofile, value: 99 },
            Rlimit { resource: RlimitResource::Rtprio, value: 1 },
        ];
        let spec = ProcessSpec { path: "sh".into(), rlimits, ..ProcessSpec::default() };
        let sent = decoded(&request(Start::Now, ProcessKey([1; 16]), &[], &spec).unwrap());
        assert_eq!(sent.rlimits, [(libc::RLIMIT_NOFILE, 99), (libc::RLIMIT_RTPRIO, 1)]);
    }

    #[test]
    fn a_process_that_is_too_large_is_refused_with_its_size_and_the_limit() {
        let spec = ProcessSpec { path: "sh".into(), args: vec!["x".repeat(MAX_REQUEST)], ..ProcessSpec::default() };
        let error = request(Start::Now, ProcessKey([1; 16]), &[], &spec).unwrap_err();
        assert!(matches!(error, SpawnError::TooLarge { bytes, limit } if bytes > limit && limit == MAX_REQUEST));
    }

    #[test]
    fn refusals_read_as_clients_expect_them() {
        let spec = ProcessSpec { path: "bash".into(), user: Some("alice".into()), ..ProcessSpec::default() };
        let text = |failure| refusal(failure, &spec).to_string();
        assert_eq!(text(SpawnFailure::NotFound), r#"exec: "bash": executable file not found in $PATH"#);
        assert_eq!(
            text(SpawnFailure::Exec { errno: libc::EACCES, exists: true }),
            r#"exec: "bash": permission denied"#
        );
        assert_eq!(
            text(SpawnFailure::Exec { errno: libc::ENOEXEC, exists: true }),
            r#"exec: "bash": exec format error"#
        );
        assert!(text(SpawnFailure::Exec { errno: libc::ENOENT, exists: true }).contains("missing interpreter"));
        assert_eq!(text(SpawnFailure::UnknownUser), "unable to find user alice: no matching entries in passwd file");
        assert_eq!(
            text(SpawnFailure::Dir { dir: b"/x".to_vec(), errno: libc::ENOTDIR }),
            "working directory /x: not a directory"
        );
        assert!(text(SpawnFailure::Rlimit { resource: libc::RLIMIT_NOFILE, asked: 9, ceiling: 8 }).contains("nofile"));
        assert!(!text(SpawnFailure::Malformed { reason: "\x1b[2J".into() }).contains('\x1b'));
    }

    #[test]
    fn a_uid_travels_as_sixteen_bytes_and_comes_back() {
        let process = ProcessUid::generate();
        assert_eq!(uid(key(&process)), Some(process));
    }
}
