//! The command line: one file a command, and the client that they use.

pub mod client;
