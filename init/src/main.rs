//! garden-init: see the library.
//!
//! `garden-init [--on-host] [--allow-any-peer] [FOLDER]`, or `garden-init enter` (see [`garden_init::enter`])

#[cfg(target_os = "linux")]
mod start;

#[cfg(target_os = "linux")]
use start::main as start;

use std::process::ExitCode;

fn main() -> ExitCode {
    start()
}

#[cfg(not(target_os = "linux"))]
fn start() -> ExitCode {
    eprintln!("garden-init: it is a container's first process, and runs on Linux alone");
    ExitCode::FAILURE
}
