//! gardend: a Garden server for containerd nodes. `main.rs` is the only place that knows every part.

pub mod cli;
pub mod config;
mod docker_config;
#[cfg(target_os = "linux")]
pub mod garden;
pub mod net;
pub mod node;
pub mod telemetry;
