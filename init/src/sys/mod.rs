//! The kernel calls that std does not offer. The only place of this crate with `unsafe`.

#![allow(unsafe_code)]

mod socket;

#[cfg(test)]
pub use socket::seqpacket_pair;
pub use socket::{recv, send};
