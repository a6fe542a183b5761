//! Extended attributes: read, written, and their ids shifted.

use crate::node::ids::IdMap;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const CAPABILITY: &[u8] = b"security.capability";
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
/// Marks of an overlay's upper folder: in a lower one they would hide files.
const OVERLAY: &[u8] = b"trusted.overlay.";

/// A file: a folder, and a name in it.
type Named<'a> = (&'a OwnedFd, &'a CStr);

/// Copies all but an overlay's own. What the target's file system does not know is left out, as
/// `cp -a` does.
pub(super) fn copy_attributes(source: Named<'_>, target: Named<'_>, shift: Option<&IdMap>) -> io::Result<()> {
    let (source, target) = (path_of(source)?, path_of(target)?);
    for name in list(&source)? {
        if name.to_bytes().starts_with(OVERLAY) {
            continue;
        }
        let Some(value) = get(&source, &name)? else { continue };
        set(&target, &name, &shifted(name.to_bytes(), value, shift))?;
    }
    Ok(())
}

/// Sets one, without following a symlink.
pub(super) fn set_attribute(file: Named<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    if name.to_bytes().starts_with(OVERLAY) {
        return Ok(());
    }
    set(&path_of(file)?, name, value)
}

/// There is no `getxattrat` before Linux 6.13; the folder's descriptor stands for its path.
fn path_of((folder, name): Named<'_>) -> io::Result<CString> {
    let path = [format!("/proc/self/fd/{}/", folder.as_raw_fd()).as_bytes(), name.to_bytes()].concat();
    CString::new(path).map_err(Into::into)
}

fn list(path: &CStr) -> io::Result<Vec<CString>> {
    let mut buffer = vec![0u8; 4096];
    loop {
        match rustix::fs::llistxattr(path, &mut buffer[..]) {
            Ok(length) => {
                let names = buffer[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
                return names.map(|name| CString::new(name).map_err(Into::into)).collect();
            }
            Err(Errno::RANGE) => buffer.resize(buffer.len() * 4, 0),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn get(path: &CStr, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0u8; 1024];
    loop {
        match rustix::fs::lgetxattr(path, name, &mut buffer[..]) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            Err(Errno::RANGE) => buffer.resize(buffer.len() * 8, 0),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

fn set(path: &CStr, name: &CStr, value: &[u8]) -> io::Result<()> {
    match rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        result => result.map_err(|error| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("extended attribute {}: {error}", name.to_string_lossy()))
        }),
    }
}

fn shifted(name: &[u8], value: Vec<u8>, shift: Option<&IdMap>) -> Vec<u8> {
    match shift {
        Some(map) if name == CAPABILITY => capability_of_root(value, map.outside(0)),
        Some(map) if ACLS.contains(&name) => shift_acl(value, map),
        _ => value,
    }
}

/// File capabilities of revision 2 count for the host's root alone; those of revision 3 name the
/// root that they count for (capabilities(7)).
fn capability_of_root(mut value: Vec<u8>, root: u32) -> Vec<u8> {
    const REVISION_2: [u8; 3] = [0, 0, 2];
    if value.len() == 20 && value[1..4] == REVISION_2 {
        value[3] = 3;
        value.extend_from_slice(&root.to_le_bytes());
    }
    value
}

/// An ACL is a version (4 bytes) and entries of tag (2), permissions (2) and id (4); only entries
/// of named users and groups have one.
fn shift_acl(mut value: Vec<u8>, map: &IdMap) -> Vec<u8> {
    const NAMED: [u16; 2] = [0x02, 0x08];
    if let Some(entries) = value.get_mut(4..) {
        for entry in entries.chunks_exact_mut(8) {
            let tag = u16::from_le_bytes([entry[0], entry[1]]);
            if NAMED.contains(&tag) {
                let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
                entry[4..].copy_from_slice(&map.outside(id).to_le_bytes());
            }
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_capabilities_name_the_root_that_they_count_for() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["source", "target"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        // Effective, CAP_NET_RAW permitted.
        let mut value = vec![1, 0, 0, 2, 0, 0x20, 0, 0];
        value.resize(20, 0);
        let here = OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
        set_attribute((&here, c"source"), c"security.capability", &value).unwrap();
        copy_attributes((&here, c"source"), (&here, c"target"), Some(&IdMap::garden())).unwrap();
        let seen = get(&path_of((&here, c"target")).unwrap(), c"security.capability").unwrap().unwrap();
        assert_eq!(seen.len(), 24);
        assert_eq!(seen[20..], 4_294_967_294u32.to_le_bytes());
    }

    #[test]
    fn named_ids_of_an_acl_are_shifted_and_others_are_not() {
        let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[7, 0], &id.to_le_bytes()].concat();
        let acl = |user: u32| [vec![2, 0, 0, 0], entry(0x01, u32::MAX), entry(0x02, user), entry(0x08, 5)].concat();
        assert_eq!(shift_acl(acl(0), &IdMap::garden()), acl(4_294_967_294));
    }
}
