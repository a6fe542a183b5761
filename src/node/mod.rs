//! The controller's ports made real.

pub mod blank;
pub mod cgroup;
pub mod check;
pub mod containerd;
pub mod disk;
pub mod hooks;
pub mod host;
pub mod ids;
pub mod images;
pub mod mount;
pub mod network;
pub mod place;
pub mod process;
pub mod program;
pub mod quota;
pub mod rights;
pub mod sys;
