//! gardend as its clients on the node reach it: by the unix socket that its chart serves.

use crate::cluster::{done, eventually};
use crate::node::Running;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

/// Where the chart's gardend listens on the node.
const SOCKET: &str = "unix:///run/gardend/garden.sock";

/// gardend's own command line, for this socket.
pub fn gardend(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gardend"));
    command.arg("--target").arg(SOCKET).args(args).stdin(Stdio::null());
    command
}

/// What it prints; it has to succeed.
pub fn garden(args: &[&str]) -> String {
    done(&mut gardend(args))
}

/// Waits until gardend serves.
pub fn serves() {
    eventually("gardend serves", || {
        let ping = gardend(&["ping"]).output().expect("gardend runs");
        ping.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&ping.stderr).into_owned())
    });
}

/// A new root of busybox on the node, for the container of this name. Everybody may write to its /tmp.
pub fn rootfs(handle: &str) -> String {
    let root = Path::new("/var/lib/roots").join(handle);
    let (bin, tmp) = (root.join("bin"), root.join("tmp"));
    if root.exists() {
        fs::remove_dir_all(&root).expect("nobody uses it");
    }
    for folder in [&bin, &tmp] {
        fs::create_dir_all(folder).expect("a folder");
    }
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777)).expect("a mode");
    let busybox = done(Command::new("sh").args(["-c", "command -v busybox"]));
    fs::copy(busybox.trim(), bin.join("busybox")).expect("busybox is there");
    for name in ["sh", "sleep", "cat", "usleep"] {
        symlink("busybox", bin.join(name)).expect("a link");
    }
    root.display().to_string()
}

/// A container on such a root.
pub fn create(handle: &str) {
    garden(&["create", handle, "--rootfs", &rootfs(handle)]);
}

/// The status of [`counting`].
pub const STATUS: i32 = 7;

/// A process that writes numbered lines until it is told to end, and then ends with [`STATUS`].
/// `mark` is in its command line, which tells it from all others on the node.
pub fn counting(handle: &str, id: &str, mark: &str) -> Vec<Running> {
    let script = format!(
        "i=0; while [ ! -e /tmp/{mark} ]; do echo $i; i=$((i + 1)); usleep 5000; done; echo end $i; exit {STATUS}"
    );
    garden(&["run", "--detach", "--id", id, handle, "--", "/bin/sh", "-c", &script]);
    eventually("the process runs", || {
        let found = Running::with(mark);
        if found.is_empty() { Err("none does".to_owned()) } else { Ok(found) }
    })
}

/// Tells it to end.
pub fn tell_to_end(handle: &str, mark: &str) {
    garden(&["run", handle, "--", "/bin/sh", "-c", &format!(": >/tmp/{mark}")]);
}

/// All that it wrote, by somebody who attaches now, and its status.
pub fn attach(handle: &str, id: &str) -> (Vec<u8>, Option<i32>) {
    let output = gardend(&["attach", "--no-stdin", handle, id]).output().expect("gardend runs");
    (output.stdout, output.status.code())
}

/// Somebody who is attached, and attaches again whenever gardend goes, until the process has ended.
pub fn follow(handle: &str, id: &str) -> JoinHandle<Vec<u8>> {
    let (handle, id) = (handle.to_owned(), id.to_owned());
    std::thread::spawn(move || {
        let mut seen = Vec::new();
        eventually("the process ends", || {
            let (more, status) = attach(&handle, &id);
            seen.extend(more);
            (status == Some(STATUS)).then_some(()).ok_or_else(|| format!("{status:?}"))
        });
        seen
    })
}

/// Every number once and in order, then the end.
pub fn is_whole(output: &[u8]) {
    let text = String::from_utf8_lossy(output);
    let mut lines: Vec<&str> = text.lines().collect();
    let end = lines.pop().unwrap_or_default();
    let count = end.strip_prefix("end ").and_then(|count| count.parse::<usize>().ok());
    assert_eq!(count, Some(lines.len()), "the output ends with {end:?}");
    let wrong = lines.iter().enumerate().find(|(at, line)| line.parse() != Ok(*at));
    assert_eq!(wrong, None, "a line is missing, or there twice");
    assert!(lines.len() > 100, "{} lines are too few to tell", lines.len());
}

/// Handles of containers that gardend has.
pub fn handles() -> BTreeSet<String> {
    garden(&["ls", "--quiet"]).split_whitespace().map(str::to_owned).collect()
}
