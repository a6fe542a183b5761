//! The controller's ports made real: on Linux. Of other machines nothing is a node; there this is what
//! the options of `serve` consist of, so that the command line is the same.

#[cfg(target_os = "linux")]
pub mod blank;
#[cfg(target_os = "linux")]
pub mod census;
#[cfg(target_os = "linux")]
pub mod cgroup;
#[cfg(target_os = "linux")]
pub mod check;
#[cfg(target_os = "linux")]
pub mod containerd;
#[cfg(target_os = "linux")]
pub mod disk;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod headroom;
#[cfg(target_os = "linux")]
pub mod hooks;
#[cfg(target_os = "linux")]
pub mod host;
pub mod ids;
#[cfg(target_os = "linux")]
pub mod images;
#[cfg(target_os = "linux")]
pub mod mount;
#[cfg(target_os = "linux")]
pub mod network;
pub mod place;
#[cfg(target_os = "linux")]
pub mod process;
#[cfg(target_os = "linux")]
pub mod program;
#[cfg(target_os = "linux")]
pub mod quota;
pub mod rights;
#[cfg(target_os = "linux")]
pub mod sys;

#[cfg(not(target_os = "linux"))]
pub use elsewhere::{containerd, images};
