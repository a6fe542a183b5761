//! Who owns what is made in a place.

use super::error::{Result, attempting, failed};
use crate::node::ids::IdMap;
use std::path::Path;

/// Whose files are when they are made on behalf of a place's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Owner {
    /// Root of the host, which is a privileged place's root too.
    pub(super) const HOST_ROOT: Self = Self { uid: 0, gid: 0 };
}

/// Who owns what root inside makes.
pub(super) fn of_root(map: &IdMap) -> Owner {
    Owner { uid: map.root(), gid: map.root() }
}

/// Refuses a process whose maps are others.
pub(super) fn expect_of_process(map: &IdMap, pid: u32) -> Result<()> {
    for name in ["uid_map", "gid_map"] {
        let path = format!("/proc/{pid}/{name}");
        let text = std::fs::read_to_string(Path::new(&path)).map_err(attempting(format!("reading {path}")))?;
        if IdMap::parse(&text).as_ref() != Some(map) {
            let (seen, wanted) = (text.trim().replace('\n', ", "), map.as_text().trim().replace('\n', ", "));
            return Err(failed(format!("the place maps ids as \"{seen}\" ({path}), and not as \"{wanted}\"")));
        }
    }
    Ok(())
}
