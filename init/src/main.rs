//! garden-init.
fn main() {}
