//! garden-init: pid 1 of every gardend container. This library is what its client shares with it:
//! the words ([`wire`]) and how they travel ([`packet`]).

pub mod packet;
mod sys;
pub mod wire;
