//! The records: what is wanted, and what became of it. Plain data, serialisable, no behaviour
//! beyond reading itself.

mod declared;
mod id;
mod image;
mod network;
mod spec;
mod status;

pub use declared::*;
pub use id::*;
pub use image::*;
pub use network::*;
pub use spec::*;
pub use status::*;
