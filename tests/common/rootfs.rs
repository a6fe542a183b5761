//! A root file system for test containers, made of busybox, owned by the user that an
//! unprivileged container's root is on the host.

use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What root is on the host, in a container that is not privileged.
const MAPPED_ROOT: u32 = 4_294_967_294;

/// Makes one in a folder that does not exist yet.
pub fn unprivileged(folder: &Path) -> PathBuf {
    let script =
        PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("scripts/busybox-rootfs.sh");
    let output = Command::new(script).arg(folder).output().expect("the script runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    own(folder);
    folder.to_owned()
}

fn own(path: &Path) {
    lchown(path, Some(MAPPED_ROOT), Some(MAPPED_ROOT)).expect("root may give files away");
    if path.is_dir() && !path.is_symlink() {
        for entry in path.read_dir().expect("the folder is ours") {
            own(&entry.expect("the folder is ours").path());
        }
    }
}
