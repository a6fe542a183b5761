//! What a gardend that does not come back removes of its network: by the names of its things alone,
//! whatever of them is there.

use super::names::Names;
use super::netlink::Connection;
use super::routing::{self, Priority};
use super::{links, ruleset};
use crate::node::containerd::labels::OwnerMark;
use crate::node::place::Folders;
use std::collections::BTreeSet;
use std::io;

/// Removes links, rules of routing and tables of nftables. None of its containers may be left.
///
/// # Errors
/// What the kernel, or nftables, says to it. What could be removed is.
pub fn leave(folders: &Folders) -> io::Result<()> {
    let owner = OwnerMark::of(folders.state(), folders.run())?;
    let mut route = Connection::route()?;
    for (_, index) in links::list(&mut route, Names::of(&owner).prefix())? {
        links::remove(&mut route, index)?;
    }
    routing::guard(&mut route, Priority::of(&owner), &BTreeSet::new())?;
    for names in [Names::of(&owner), Names::of_plugins(&owner)] {
        ruleset::remove(&names)?;
    }
    Ok(())
}
