//! Connections of clients: where a server listens, what it accepts there, how one is passed on.
//!
//! TCP and unix sockets alike; TLS around what others could reach is `secure`'s. A unix socket's file is owned from the moment that it is bound until
//! its listener goes: one that a dead server left is replaced, one that somebody listens on is
//! refused, and at the end none is left.
//!
//! What is said over a connection is for others to know: the front end, and the command line.

mod address;
mod listener;
mod relay;
pub mod secure;
mod stream;

pub use address::{Address, AddressError};
pub use listener::{Access, Arrival, Claim, ListenError, Listener, Listeners};
pub use relay::relay;
pub use stream::Stream;
