//! Names as clients give them, below a container's folder.
//!
//! A name is confined by its words: `..` ends at the folder. Links are followed, since bind mounts are
//! links; nothing is kept from whoever can make one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Where `name` is below `folder`, absolute or not. A slash at its end stays, as it means a folder's
/// contents.
pub fn below(folder: &Path, name: impl AsRef<Path>) -> PathBuf {
    let name = name.as_ref();
    let mut kept: Vec<&OsStr> = Vec::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => kept.push(part),
            Component::ParentDir => drop(kept.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let mut path = folder.to_owned();
    path.extend(&kept);
    let is_contents = name.as_os_str().is_empty() || name.as_os_str().as_bytes().ends_with(b"/") || kept.is_empty();
    if is_contents {
        path.push("");
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(name: &str) -> String {
        below(Path::new("/c"), name).to_string_lossy().into_owned()
    }

    #[test]
    fn names_lie_below_the_folder_whatever_they_say() {
        for (asked, found) in [
            ("/tmp/build", "/c/tmp/build"),
            ("tmp", "/c/tmp"),
            ("", "/c/"),
            ("/", "/c/"),
            (".", "/c/"),
            ("..", "/c/"),
            ("/../../etc/passwd", "/c/etc/passwd"),
            ("/a/../b/./c", "/c/b/c"),
            ("/a/b/", "/c/a/b/"),
            ("//a", "/c/a"),
        ] {
            assert_eq!(name(asked), found, "{asked}");
        }
    }

    proptest! {
        #[test]
        fn no_words_lead_out(asked in "[a./]{0,30}") {
            let found = below(Path::new("/c"), &asked);
            prop_assert!(found.starts_with("/c"));
            prop_assert!(found.components().all(|part| part != Component::ParentDir));
        }
    }
}
