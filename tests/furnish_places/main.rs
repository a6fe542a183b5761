//! Furnishing on real parts: real namespaces, real mounts, real overlays. Needs root and
//! busybox-static. Each test has a mount namespace of its own; the machine's is never touched.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/image.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod image;

mod binds;
mod default_rootfs;
mod faults;
mod images;
mod real;
mod roots;
mod speed;
mod sys;
mod world;
