//! What we write on containers, and whose they are.

use gardend_controller::record::{ContainerUid, Handle, SandboxKind};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Whose the place is: an [`OwnerMark`].
pub const OWNER: &str = "gardend.dev/owner";
/// Its kind.
pub const KIND: &str = "gardend.dev/kind";
/// The group of places that share its shim.
pub const GROUP: &str = "gardend.dev/group";
/// Whose container it has become: the client's name for it.
pub const HANDLE: &str = "gardend.dev/handle";
/// Whose container it has become: our name for it.
pub const UID: &str = "gardend.dev/uid";

/// containerd refuses a label whose key and value are longer together.
const MAX_LABEL: usize = 4096;

/// Tells the places of one gardend from those of another on the same containerd: 16 hexadecimal
/// digits that stay the same while its folders do.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerMark(String);

impl OwnerMark {
    /// The mark of the gardend that has these two folders.
    ///
    /// # Errors
    /// Where one of them is not there: its canonical path is what counts.
    pub fn of(state: &Path, run: &Path) -> io::Result<Self> {
        Ok(Self::of_canonical(&state.canonicalize()?, &run.canonicalize()?))
    }

    fn of_canonical(state: &Path, run: &Path) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let mut hash = Sha256::new();
        hash.update(state.as_os_str().as_bytes());
        hash.update([0]);
        hash.update(run.as_os_str().as_bytes());
        Self(hex(&hash.finalize()[..8]))
    }

    /// The same, of folders that may be gone by now: as they were, as far as what is above them tells.
    ///
    /// # Errors
    /// Where nothing above them is there either.
    pub fn of_folders(state: &Path, run: &Path) -> io::Result<Self> {
        Ok(Self::of_canonical(&canonical(state)?, &canonical(run)?))
    }

    /// As text: safe as a label's value and as a cgroup's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// With what is not there as it is named, below what is.
fn canonical(path: &Path) -> io::Result<PathBuf> {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            Ok(canonical(parent)?.join(name))
        }
        (found, ..) => found,
    }
}

impl fmt::Display for OwnerMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OwnerMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The labels of a place that is nobody's yet.
pub(super) fn blank(owner: &OwnerMark, kind: SandboxKind, group: &str) -> HashMap<String, String> {
    let kind = match kind {
        SandboxKind::Unprivileged => "unprivileged",
        SandboxKind::Privileged => "privileged",
    };
    [(OWNER, owner.as_str()), (KIND, kind), (GROUP, group)].map(|(key, value)| (key.into(), value.into())).into()
}

/// The labels that a place gets with its container.
pub(super) fn furnished(container: &ContainerUid, handle: &Handle) -> HashMap<String, String> {
    [(UID, container.as_str()), (HANDLE, handle.as_str())]
        .map(|(key, value)| (key.into(), shortened(value, MAX_LABEL - key.len())))
        .into()
}

/// A value that fits, and is still told apart from every other one that begins like it.
fn shortened(value: &str, limit: usize) -> String {
    if value.len() <= limit {
        return value.to_owned();
    }
    let mark = format!("...{}", hex(&Sha256::digest(value.as_bytes())[..8]));
    let mut end = limit - mark.len();
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{mark}", &value[..end])
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_of_the_folders_themselves_and_not_of_how_they_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&a).unwrap();
        std::fs::create_dir(&b).unwrap();
        std::os::unix::fs::symlink(&a, dir.path().join("link")).unwrap();
        let mark = OwnerMark::of(&a, &b).unwrap();
        assert_eq!(mark, OwnerMark::of(&dir.path().join("link/../a"), &b).unwrap());
        assert_ne!(mark, OwnerMark::of(&b, &a).unwrap());
        assert_eq!(mark.as_str().len(), 16);
        std::fs::remove_dir(&b).unwrap();
        assert_eq!(OwnerMark::of_folders(&a, &b).unwrap(), mark);
    }

    #[test]
    fn a_value_too_long_for_containerd_is_cut_at_a_character_and_stays_unique() {
        let one = shortened(&format!("{}1", "ü".repeat(3000)), 4000);
        let other = shortened(&format!("{}2", "ü".repeat(3000)), 4000);
        assert!(one.len() <= 4000 && one.starts_with("üüü") && one != other);
        assert_eq!(shortened("short", 4000), "short");
    }
}
