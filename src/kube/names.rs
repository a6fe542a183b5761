//! Names: of nodes, and of the objects that stand for containers.

use gardend_controller::record::{ContainerUid, Handle};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// The longest name of a Kubernetes object (RFC 1123 subdomain).
const LONGEST: usize = 253;
/// What of a handle stands in an object's name.
const LONGEST_STEM: usize = 52;

/// A node's name, as Kubernetes has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeName(String);

/// A text that is no node's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no name of a Kubernetes node: use lower-case letters, digits, '-' and '.', 253 at most")]
pub struct InvalidNodeName(String);

impl NodeName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the node's Lease is called.
    pub fn lease(&self) -> String {
        let name = format!("gardend-{}", self.0);
        if name.len() <= LONGEST { name } else { format!("gardend-{}", short_hash(&[&self.0])) }
    }
}

impl FromStr for NodeName {
    type Err = InvalidNodeName;
    fn from_str(text: &str) -> Result<Self, InvalidNodeName> {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let is_label = |label: &str| {
            label.starts_with(inner) && label.ends_with(inner) && label.chars().all(|c| inner(c) || c == '-')
        };
        let valid = text.len() <= LONGEST && text.split('.').all(is_label);
        valid.then(|| Self(text.to_owned())).ok_or_else(|| InvalidNodeName(text.to_owned()))
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a container's object: its handle, as far as a name can show it, and what tells it
/// from every other container of every node.
pub fn container_object(node: &NodeName, handle: &Handle, uid: &ContainerUid) -> String {
    let hash = short_hash(&[node.as_str(), uid.as_str()]);
    let mut stem = String::new();
    for c in handle.as_str().chars().flat_map(char::to_lowercase) {
        if stem.len() == LONGEST_STEM {
            break;
        }
        let next = if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
        if next != '-' || !(stem.is_empty() || stem.ends_with('-')) {
            stem.push(next);
        }
    }
    match stem.trim_end_matches('-') {
        "" => format!("container-{hash}"),
        stem => format!("{stem}-{hash}"),
    }
}

fn short_hash(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(handle: &str) -> String {
        let uid = ContainerUid::parse(&"1".repeat(32)).unwrap();
        container_object(&"n1".parse().unwrap(), &Handle::new(handle).unwrap(), &uid)
    }

    #[test]
    fn a_handle_is_shown_as_far_as_a_name_can() {
        let hash = named("x").split_off(2);
        assert_eq!(hash.len(), 12);
        for (handle, stem) in
            [("a-b", "a-b"), ("A_B c", "a-b-c"), ("--a--", "a"), ("ünï", "n"), ("日本", "container"), ("...x", "x")]
        {
            assert_eq!(named(handle), format!("{stem}-{hash}"), "{handle}");
        }
    }

    #[test]
    fn the_same_handle_on_another_node_or_once_more_is_another_object() {
        let handle = Handle::new("x").unwrap();
        let (one, other) = (ContainerUid::generate(), ContainerUid::generate());
        let on = |node: &str, uid| container_object(&node.parse().unwrap(), &handle, uid);
        assert_ne!(on("n1", &one), on("n2", &one));
        assert_ne!(on("n1", &one), on("n1", &other));
    }

    #[test]
    fn a_node_s_name_is_a_subdomain() {
        for name in ["n", "node-1.example.org", &"a".repeat(253)] {
            assert_eq!(name.parse::<NodeName>().unwrap().as_str(), name);
        }
        for name in ["", "-a", "a-", "A", "a..b", "a_b", &"a".repeat(254)] {
            assert!(name.parse::<NodeName>().is_err(), "{name}");
        }
        let longest: NodeName = "a".repeat(253).parse().unwrap();
        assert!(longest.lease().parse::<NodeName>().is_ok());
    }

    proptest! {
        #[test]
        fn every_handle_makes_a_name_that_kubernetes_takes(handle in "[^/?#%,\\p{Cc}]{1,200}") {
            prop_assume!(handle != "." && handle != "..");
            let name = named(&handle);
            prop_assert!(name.parse::<NodeName>().is_ok(), "{name}");
            prop_assert!(name.len() <= 80);
        }
    }
}
