//! Furnishing on real parts: real namespaces, real mounts, real overlays. Needs root and
//! busybox-static. Each test has a mount namespace of its own; the machine's is never touched.

#[path = "../common/mod.rs"]
mod common;

mod binds;
mod default_rootfs;
mod faults;
mod real;
mod roots;
mod speed;
mod sys;
mod world;
