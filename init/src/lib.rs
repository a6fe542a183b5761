//! garden-init: pid 1 of every gardend container, and the wire types that its client shares.

pub mod wire;
