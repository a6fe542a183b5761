//! Connections that strangers could open: TLS around them, and proof of who opened one.
//!
//! ```text
//! client ──TLS── relay (here) ──socket pair── whatever serves or calls, on a bare descriptor
//! ```
//! What is behind speaks to a socket of its own, since streams are moved by the kernel and need one.
//! Like any unix socket it knows no reset: a stream that the server cuts ends over TLS as one that is whole.
//!
//! Owns certificates, keys and lists of tokens: read from files, and read again when those change, as
//! they do when a certificate is renewed; what cannot be read leaves what was read before.
//!
//! Leaves to others: where a token stands in what a client says, and how it is told that it has none.

mod client;
mod files;
mod relay;
mod server;
mod tokens;

pub use client::{Credentials, connect};
pub use files::{FileError, add_authorities, machines_authorities, provider};
pub use server::{Accepted, Identity, Secure, SecureOptions, Verdict, Verifier};
pub use tokens::{Tokens, TokensError};
