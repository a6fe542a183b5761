//! Overlays, put together in the workshop of layers that are seen there under short names.
//!
//! fsconfig(2) cuts its values at 255 bytes: more layers are given one by one where the kernel
//! takes them so (6.8), and else by mount(2), whose options may be a page long.

use super::layer;
use super::tree::Tree;
use super::work::lock;
use super::workshop;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// fsconfig(2) cuts its values there.
const MAX_VALUE: usize = 255;

/// What every overlay of ours is made with.
const OPTIONS: [(&str, &str); 2] = [
    // A layer outlives its mounts and is used again at once: no claims on it by earlier ones.
    ("index", "off"),
    // Folders of the image can be renamed, as on any other file system.
    ("redirect_dir", "on"),
];

/// Puts an overlay together. Paths within the layer are relative: short, and no secret of the
/// host's in the container's mount table.
pub(super) fn compose(layer: &Path, lowers: &[PathBuf]) -> io::Result<Tree> {
    rustix::process::chdir(layer)?;
    let writable = [("upperdir", layer::UPPER), ("workdir", layer::WORK)];
    match configure(lowers, &writable) {
        Err(Lowers::TooMany) => compose_by_mount(lowers, &writable),
        Err(Lowers::Refused(error)) => Err(error),
        Ok(tree) => Ok(tree),
    }
}

/// The same, without anything that could be written to.
pub(super) fn compose_for_reading(lowers: &[PathBuf]) -> io::Result<Tree> {
    // One folder alone makes no overlay to be read.
    if let [one] = lowers {
        return Tree::of_this_mount(one, None);
    }
    match configure(lowers, &[]) {
        Err(Lowers::TooMany) => compose_by_mount(lowers, &[]),
        Err(Lowers::Refused(error)) => Err(error),
        Ok(tree) => Ok(tree),
    }
}

/// Why an overlay was not made of these layers.
enum Lowers {
    /// Their names do not fit in one value, and the kernel does not take them one by one.
    TooMany,
    Refused(io::Error),
}

/// Layers by fsconfig(2): each for itself, where the kernel (6.8) can, or else together.
fn configure(lowers: &[PathBuf], writable: &[(&str, &str)]) -> Result<Tree, Lowers> {
    let refused = |error: rustix::io::Errno| Lowers::Refused(error.into());
    let context: OwnedFd = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(refused)?;
    let told = |error: rustix::io::Errno| Lowers::Refused(explain(&context, error));
    rustix::mount::fsconfig_set_string(context.as_fd(), "source", "overlay").map_err(told)?;
    let joined = join(lowers);
    if joined.len() <= MAX_VALUE {
        rustix::mount::fsconfig_set_string(context.as_fd(), "lowerdir", joined.as_str()).map_err(told)?;
    } else {
        for lower in lowers {
            match rustix::mount::fsconfig_set_string(context.as_fd(), "lowerdir+", lower.as_os_str()) {
                Err(rustix::io::Errno::INVAL) => return Err(Lowers::TooMany),
                set => set.map_err(told)?,
            }
        }
    }
    for (key, value) in writable {
        rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value).map_err(told)?;
    }
    for (key, value) in OPTIONS {
        rustix::mount::fsconfig_set_string(context.as_fd(), key, value).map_err(told)?;
    }
    rustix::mount::fsconfig_create(context.as_fd()).map_err(told)?;
    let mount = rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .map_err(told)?;
    Tree::of_new_mount(mount).map_err(Lowers::Refused)
}

/// By mount(2), whose options may be a page long: attached in the workshop, and taken from there.
fn compose_by_mount(lowers: &[PathBuf], writable: &[(&str, &str)]) -> io::Result<Tree> {
    let options = OPTIONS.iter().chain(writable).map(|(key, value)| format!(",{key}={value}"));
    let options = format!("lowerdir={}{}", join(lowers), options.collect::<String>());
    let options = CString::new(options)?;
    let point = workshop::bench();
    match rustix::fs::mkdirat(rustix::fs::CWD, point, rustix::fs::Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    // Everybody in the workshop sees it.
    static BENCH: Mutex<()> = Mutex::new(());
    let _one_at_a_time = lock(&BENCH);
    rustix::mount::mount("overlay", point, "overlay", MountFlags::empty(), Some(options.as_c_str()))?;
    let tree = Tree::of_this_mount(point, None);
    rustix::mount::unmount(point, UnmountFlags::DETACH)?;
    tree
}

fn join(lowers: &[PathBuf]) -> String {
    // Names of the workshop's own, without anything that would have to be escaped.
    let names: Vec<_> = lowers.iter().map(|lower| lower.to_string_lossy()).collect();
    names.join(":")
}

/// The error, with what the kernel noted about it.
fn explain(context: &OwnedFd, error: rustix::io::Errno) -> io::Error {
    let mut notes = Vec::new();
    let mut buffer = [0u8; 1024];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut buffer) {
        notes.push(String::from_utf8_lossy(&buffer[..length]).trim().to_owned());
    }
    if notes.is_empty() { error.into() } else { io::Error::other(format!("{error} ({})", notes.join("; "))) }
}
