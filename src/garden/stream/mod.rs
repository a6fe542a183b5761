//! Connections that have been taken over from HTTP: a process's messages, and raw output.

mod frames;
mod session;

pub(super) use session::serve_process;
