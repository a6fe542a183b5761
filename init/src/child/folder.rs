//! The working folder, made where it is missing.

use super::Privileges;
use crate::accounts::Account;
use rustix::fs::{Mode, mkdir, stat};
use rustix::io::Errno;
use std::ffi::{CStr, CString};

/// Makes the missing part of `dir`, owned by the user, 0755. What is there is left as it is.
///
/// The folders are the user's from their first moment, since they are made as the user with root's
/// rights over the parents. Made by root and then given away, they could be swapped in between by
/// the user, who would be given something else.
pub fn ensure(dir: &CStr, account: &Account, privileges: &Privileges) -> rustix::io::Result<()> {
    match stat(dir) {
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
        Ok(_) => return Ok(()),
    }
    crate::sys::set_file_owner(account.uid, account.gid);
    privileges.raise()?;
    for parent in parents_and_self(dir.to_bytes()) {
        match mkdir(parent.as_c_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn parents_and_self(dir: &[u8]) -> impl Iterator<Item = CString> {
    let ends = (1..=dir.len()).filter(|&end| dir[end - 1] != b'/' && dir.get(end).is_none_or(|next| *next == b'/'));
    // Part of a string without NULs has none.
    ends.filter_map(|end| CString::new(&dir[..end]).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(dir: &str) -> Vec<String> {
        parents_and_self(dir.as_bytes()).map(|part| part.into_string().unwrap()).collect()
    }

    #[test]
    fn every_folder_on_the_way_is_named_once() {
        assert_eq!(parts("/a/bc/d"), ["/a", "/a/bc", "/a/bc/d"]);
        assert_eq!(parts("//a//b/"), ["//a", "//a//b"]);
        assert_eq!(parts("a/b"), ["a", "a/b"]);
        assert_eq!(parts("/"), [""; 0]);
    }
}
