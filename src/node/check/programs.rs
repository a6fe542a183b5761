//! containerd, its shim and the runtime: there, new enough, and of a kind that can be used.

use super::version::Version;
use super::{Line, Subject};
use crate::node::containerd::{Connection, Endpoint, NAMESPACE, Runtime, SHIM, peer};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

const OLDEST_CONTAINERD: Version = Version::new(1, 6);
const OLDEST_RUNC: Version = Version::new(1, 1);
const OLDEST_CRUN: Version = Version::new(1, 8);
/// They run what they are given in a virtual machine or behind a kernel of their own: a place
/// could not be furnished from outside.
const HIDDEN: [&str; 4] = ["kata", "runsc", "krun", "runq"];
/// How long a program may take to print its version.
const PRINTS: Duration = Duration::from_secs(10);

pub(super) async fn lines(subject: &Subject) -> Vec<Line> {
    let path = SearchPath::of(subject);
    let (containerd, runtime) = tokio::join!(containerd(subject), runtime(&subject.runtime, &path));
    vec![containerd, shim(&path), runtime]
}

async fn containerd(subject: &Subject) -> Line {
    let name = "containerd";
    let (found, remedy) = match (&subject.socket, &subject.containerd) {
        (Some(socket), _) | (None, Endpoint::Socket(socket)) => {
            let version = Connection::lazy(socket, NAMESPACE).version().await;
            let remedy = format!("start containerd, or name its socket with --containerd (now {})", socket.display());
            (version.map_err(|error| error.to_string()), remedy)
        }
        (None, Endpoint::Managed { binary }) => {
            let remedy = format!("install containerd (now {}), or name it with --containerd-binary", binary.display());
            (print_version(binary).await.map_err(|error| format!("{}: {error}", binary.display())), remedy)
        }
    };
    match found {
        Err(error) => Line::fail(name, error, remedy),
        Ok(text) => judge(name, &text, Some(OLDEST_CONTAINERD)),
    }
}

fn judge(name: &str, text: &str, oldest: Option<Version>) -> Line {
    let shown = text.lines().next().unwrap_or_default().trim();
    match (Version::find(text), oldest) {
        (Some(version), Some(oldest)) if version < oldest => {
            Line::fail(name, shown, format!("{version} is too old; install {oldest} or newer"))
        }
        (Some(_), Some(_)) => Line::ok(name, shown),
        (_, None) => {
            Line::warn(name, shown, "gardend is tested with runc and crun; another runtime may behave otherwise")
        }
        (None, Some(oldest)) => {
            Line::warn(name, shown, format!("its version is not understood; {oldest} or newer is needed"))
        }
    }
}

fn shim(path: &SearchPath) -> Line {
    // containerd's own rule: io.containerd.runc.v2 is containerd-shim-runc-v2.
    let program = format!("containerd-shim-{}", SHIM.trim_start_matches("io.containerd.").replace('.', "-"));
    match path.find(Path::new(&program)) {
        Some(found) => Line::ok("shim", found.display().to_string()),
        None => path.missing("shim", &program, "install it; it comes with containerd"),
    }
}

async fn runtime(runtime: &Runtime, path: &SearchPath) -> Line {
    let name = "runtime";
    if HIDDEN.iter().any(|hidden| runtime.name().contains(hidden)) {
        let found = format!("{} hides what it runs from the host", runtime.name());
        return Line::fail(name, found, "choose runc or crun with --runtime");
    }
    let Some(program) = path.find(runtime.program()) else {
        let remedy = "install it, or choose another with --runtime runc|crun|PATH";
        return path.missing(name, &runtime.program().display().to_string(), remedy);
    };
    match print_version(&program).await {
        Err(error) => Line::fail(name, format!("{}: {error}", program.display()), "install one that runs"),
        Ok(text) => {
            let oldest = match text.split_ascii_whitespace().next() {
                Some("runc") => Some(OLDEST_RUNC),
                Some("crun") => Some(OLDEST_CRUN),
                _ => None,
            };
            let line = judge(name, &text, oldest);
            Line { found: format!("{}, {}", line.found, program.display()), ..line }
        }
    }
}

async fn print_version(program: &Path) -> io::Result<String> {
    let mut command = tokio::process::Command::new(program);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PRINTS, command.output()).await;
    let output = output.map_err(|_| io::Error::other("it does not print its version; it hangs"))??;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(io::Error::other(format!("--version ended with {}", output.status)))
}

/// Where containerd looks for its shim, and the shim for the runtime.
struct SearchPath {
    folders: Vec<PathBuf>,
    /// It is containerd's own, not a guess.
    certain: bool,
}

impl SearchPath {
    fn of(subject: &Subject) -> Self {
        let socket = match (&subject.socket, &subject.containerd) {
            (Some(socket), _) => Some(socket),
            (None, Endpoint::Socket(socket)) => Some(socket),
            (None, Endpoint::Managed { .. }) => None,
        };
        let pid = socket.and_then(|socket| peer(socket));
        let theirs = pid.and_then(|pid| std::fs::read(format!("/proc/{pid}/environ")).ok()).and_then(path_in);
        let certain = theirs.is_some() || socket.is_none();
        let path = theirs.or_else(|| std::env::var_os("PATH")).unwrap_or_default();
        let own = match &subject.containerd {
            Endpoint::Managed { binary } => binary.parent().filter(|folder| folder.is_absolute()),
            Endpoint::Socket(_) => None,
        };
        let folders = own.map(Path::to_owned).into_iter().chain(std::env::split_paths(&path)).collect();
        Self { folders, certain }
    }

    fn find(&self, program: &Path) -> Option<PathBuf> {
        // Joining an absolute path gives that path.
        self.folders.iter().map(|folder| folder.join(program)).find(|path| {
            std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
    }

    fn missing(&self, name: &str, program: &str, remedy: &str) -> Line {
        if self.certain {
            Line::fail(name, format!("{program} is not in containerd's PATH"), remedy)
        } else {
            Line::warn(name, format!("{program} is not in our PATH; containerd's cannot be seen"), remedy)
        }
    }
}

/// PATH in the environment of a process, as /proc shows it.
fn path_in(environment: Vec<u8>) -> Option<OsString> {
    let path = environment.split(|&byte| byte == 0).find_map(|variable| variable.strip_prefix(b"PATH="))?;
    Some(OsString::from_vec(path.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::check::Verdict;
    use crate::node::place::Folders;

    /// Written by another process: ours might be forked by another thread while the file is open
    /// for writing, and could not be executed then.
    fn program(folder: &Path, name: &str, script: &str) -> PathBuf {
        let path = folder.join(name);
        let write = r#"printf '#!/bin/sh\n%s\n' "$1" >"$0" && chmod 755 "$0""#;
        let written = std::process::Command::new("/bin/sh").arg("-c").arg(write).arg(&path).arg(script).status();
        assert!(written.unwrap().success());
        path
    }

    fn certain(folder: &Path) -> SearchPath {
        SearchPath { folders: vec![folder.to_owned()], certain: true }
    }

    #[tokio::test]
    async fn a_runtime_that_is_too_old_missing_or_broken_fails_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = certain(folder.path());
        for (name, script, expected) in [
            ("runc", "echo runc version 1.1.5; echo spec: 1.0.2", Verdict::Ok),
            ("old", "echo runc version 1.0.0-rc93", Verdict::Fail),
            ("oldcrun", "echo crun version 0.17", Verdict::Fail),
            ("crun", "echo crun version 1.8.1", Verdict::Ok),
            ("youki", "echo youki version 0.5.0", Verdict::Warn),
            ("broken", "exit 3", Verdict::Fail),
            ("kata-runtime", "echo kata-runtime 3.1.0", Verdict::Fail),
        ] {
            program(folder.path(), name, script);
            let line = runtime(&name.parse().unwrap(), &path).await;
            assert_eq!(line.verdict, expected, "{line:?}");
            assert_eq!(line.remedy.is_some(), expected != Verdict::Ok, "{line:?}");
        }
        let line = runtime(&"nowhere".parse().unwrap(), &path).await;
        assert!(line.verdict == Verdict::Fail && line.found.contains("nowhere"), "{line:?}");
    }

    #[tokio::test]
    async fn a_containerd_that_is_missing_or_too_old_fails_before_it_is_started() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders::new(folder.path().join("state"), folder.path().join("run"));
        let subject = |binary| Subject {
            network: None,
            folders: folders.clone(),
            containerd: Endpoint::Managed { binary },
            socket: None,
            runtime: Runtime::runc(),
        };
        let old = program(folder.path(), "containerd", "echo containerd github.com/containerd/containerd 1.5.9 x");
        let line = containerd(&subject(old)).await;
        assert!(line.verdict == Verdict::Fail && line.remedy.unwrap().contains("1.6"));
        let line = containerd(&subject(folder.path().join("none"))).await;
        assert!(line.verdict == Verdict::Fail && line.remedy.unwrap().contains("--containerd-binary"));
        let socket = folder.path().join("none.sock");
        let subject = Subject { containerd: Endpoint::Socket(socket.clone()), ..subject("containerd".into()) };
        let line = containerd(&subject).await;
        assert!(line.verdict == Verdict::Fail && line.found.contains(socket.to_str().unwrap()), "{line:?}");
    }

    #[test]
    fn the_shim_is_looked_for_where_containerd_looks() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(shim(&certain(folder.path())).verdict, Verdict::Fail);
        let unsure = SearchPath { certain: false, ..certain(folder.path()) };
        assert_eq!(shim(&unsure).verdict, Verdict::Warn);
        program(folder.path(), "containerd-shim-runc-v2", "");
        assert_eq!(shim(&certain(folder.path())).verdict, Verdict::Ok);
        assert_eq!(path_in(b"A=1\0PATH=/a:/b\0".to_vec()).unwrap(), "/a:/b");
    }
}
