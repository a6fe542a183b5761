//! What our things in the kernel are called, so that they can be told from everybody else's.

use crate::node::containerd::labels::OwnerMark;
use gardend_controller::record::{ContainerUid, SandboxId};

/// Of an owner's mark in a link's name: with `gd` before and nine digits of the place behind it, a
/// name is as long as the kernel takes (IFNAMSIZ, 15 bytes and a zero).
const MARK_DIGITS: usize = 4;
const PLACE_DIGITS: usize = 9;

/// The names of one gardend.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
    table: String,
}

impl Names {
    pub fn of(owner: &OwnerMark) -> Self {
        Self { prefix: format!("gd{}", &owner.as_str()[..MARK_DIGITS]), table: format!("gardend_{owner}") }
    }

    /// Those of our table beside networks that plugins make.
    pub fn of_plugins(owner: &OwnerMark) -> Self {
        Self { table: format!("gardend_cni_{owner}"), ..Self::of(owner) }
    }

    /// What the name of each of our links on the host begins with, and of no other.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The host's end of a place's link.
    pub fn link(&self, sandbox: &SandboxId) -> String {
        format!("{}{}", self.prefix, &sandbox.as_str()[..PLACE_DIGITS])
    }

    /// Our table of nftables, of the family inet.
    pub fn table(&self) -> &str {
        &self.table
    }
}

/// The chain of a container's rules out.
pub(super) fn chain(container: &ContainerUid) -> String {
    format!("{CHAIN_PREFIX}{container}")
}

/// What the name of each container's chain begins with.
pub(super) const CHAIN_PREFIX: &str = "out_";

/// A container's end of its link.
pub(super) const INSIDE: &str = "eth0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_name_is_as_long_as_the_kernel_takes() {
        let folder = tempfile::tempdir().unwrap();
        let owner = OwnerMark::of(folder.path(), folder.path()).unwrap();
        let names = Names::of(&owner);
        let link = names.link(&SandboxId::generate());
        assert_eq!(link.len(), 15);
        assert!(link.starts_with(names.prefix()));
        assert_eq!(names.table(), format!("gardend_{owner}"));
    }
}
