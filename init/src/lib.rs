//! garden-init: pid 1 of every gardend container, one static binary with a single thread.
//!
//! [`wire`] and [`packet`] are what its client shares with it: the words and how they travel.
//! [`server`] is pid 1 itself: it listens, forks, reaps, and keeps statuses and descriptors until
//! they are acknowledged. On a host that is not its own (`--on-host`) it is an ordinary process, and
//! [`descendants`] are its container. [`child`] is what a new process does before its exec; [`accounts`] and
//! [`environment`] are the pure parts of that. [`enter`] makes a process with a root of its own;
//! [`transfer`] moves files, as [`tar`] streams.

pub mod accounts;
pub mod child;
pub mod descendants;
pub mod enter;
pub mod environment;
pub mod packet;
pub mod server;
mod sys;
pub mod tar;
pub mod transfer;
pub mod wire;
