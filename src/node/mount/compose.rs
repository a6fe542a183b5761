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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::mount::entry::Home;
    use crate::node::mount::workshop::Workshop;
    use std::os::fd::AsRawFd;

    type Compose = fn(&[PathBuf], &[(&str, &str)]) -> io::Result<Tree>;

    fn by_fsconfig(lowers: &[PathBuf], writable: &[(&str, &str)]) -> io::Result<Tree> {
        configure(lowers, writable).map_err(|error| match error {
            Lowers::TooMany => io::Error::other("the kernel takes no layers one by one"),
            Lowers::Refused(error) => error,
        })
    }

    /// On a thread of its own, which is in a mount namespace of its own afterwards.
    fn composed_of(number: usize, compose: Compose) {
        let folder = tempfile::tempdir().unwrap();
        let layers = folder.path().join("layers");
        for folder in [layers.join("one/u"), layers.join("one/w")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let below: Vec<PathBuf> = (0..number).map(|n| folder.path().join(format!("below{n}"))).collect();
        for (n, folder) in below.iter().enumerate() {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("top"), n.to_string()).unwrap();
            std::fs::write(folder.join(format!("file{n}")), "").unwrap();
        }
        crate::node::sys::unshare_working_folder().unwrap();
        let home = Home::of_this_thread().unwrap();
        let trees: Vec<_> = below.iter().map(|folder| Tree::of_this_mount(folder, None).unwrap()).collect();
        let workshop = Workshop::build(&layers).unwrap();
        let names: Vec<PathBuf> = (0..number).map(|n| workshop::lower(&format!("{n:x}"))).collect();
        for (name, tree) in names.iter().zip(&trees) {
            workshop.show(name, tree).unwrap();
        }
        rustix::process::chdir("/layers/one").unwrap();
        let tree = compose(&names, &[("upperdir", layer::UPPER), ("workdir", layer::WORK)]).unwrap();
        for name in &names {
            workshop.hide(name).unwrap();
        }
        home.enter().unwrap();
        let root = PathBuf::from(format!("/proc/self/fd/{}", tree.as_fd().as_raw_fd()));
        assert_eq!(std::fs::read_to_string(root.join("top")).unwrap(), "0");
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), number + 1);
        std::fs::write(root.join("top"), "changed").unwrap();
        assert_eq!(std::fs::read_to_string(layers.join("one/u/top")).unwrap(), "changed");
        assert_eq!(std::fs::read_to_string(below[0].join("top")).unwrap(), "0");
    }

    #[test]
    fn few_layers_and_many_are_put_together_in_either_way() {
        for (number, compose) in
            [(2, by_fsconfig as Compose), (100, by_fsconfig), (2, compose_by_mount), (100, compose_by_mount)]
        {
            std::thread::spawn(move || composed_of(number, compose)).join().unwrap();
        }
    }
}
