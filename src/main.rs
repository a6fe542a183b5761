//! gardend: see the library.
fn main() {}
