//! gardend: a Garden server for containerd nodes. `main.rs` is the only place that knows every part.

pub mod cli;
pub mod config;
mod docker_config;
#[cfg(target_os = "linux")]
pub mod garden;
pub mod kube;
pub mod metrics;
pub mod net;
pub mod node;
#[cfg_attr(not(target_os = "linux"), path = "own_elsewhere.rs")]
pub mod own;
pub mod plugin;
pub mod telemetry;
mod words;
