//! A real gardend, as `gardend serve` has it: its containers are plain processes of this machine
//! (`--backend host`), or containerd's where GARDEND_TEST_CONTAINERS says so.

#[path = "../../common/census.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod census;
#[path = "../../common/rootfs.rs"]
mod rootfs;
#[path = "../../common/server.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod server;
#[path = "../../common/wire.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod wire;

use crate::world::World;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use wire::Garden;

/// See the module. Dropped, it goes with all that it made.
pub struct Gardend {
    server: server::Server,
    rootfs: PathBuf,
    _folder: tempfile::TempDir,
    metrics: PathBuf,
}

impl Gardend {
    /// One that knows of no cluster.
    pub fn alone() -> Self {
        Self::start(&[])
    }

    /// One that mirrors to where the mirror of this world would.
    pub fn mirroring(world: &World, options: &[&str]) -> Self {
        let kubeconfig = world.server.kubeconfig();
        let arguments = [
            "--kube",
            "mirror",
            "--kubeconfig",
            kubeconfig.to_str().expect("it is text"),
            "--kube-namespace",
            &world.place.namespace,
            "--kube-node-name",
            world.node(),
        ];
        Self::start(&[&arguments, options].concat())
    }

    fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let metrics = folder.path().join("m.sock");
        let on_containerd = std::env::var("GARDEND_TEST_CONTAINERS").is_ok_and(|kind| kind == "containerd");
        let backend: &[&str] = if on_containerd { &["--pool-size", "0"] } else { &["--backend", "host"] };
        let listen = format!("unix://{}", metrics.display());
        let arguments = [backend, &["--metrics-listen", &listen], options].concat();
        let server = server::Server::start(&arguments);
        let rootfs = match on_containerd {
            true => rootfs::unprivileged(&server.scratch().join("root")),
            // It has to be there, and is not used.
            false => server.scratch().to_owned(),
        };
        Self { server, rootfs, _folder: folder, metrics }
    }

    pub fn garden(&self) -> Garden {
        self.server.garden
    }

    pub fn rootfs(&self) -> &Path {
        &self.rootfs
    }

    /// What a series of its metrics stands at.
    pub fn figure(&self, series: &str) -> f64 {
        let mut stream = UnixStream::connect(&self.metrics).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a deadline");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("a request");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("an answer");
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let line = line.unwrap_or_else(|| panic!("{series} is not among\n{page}"));
        line.trim().parse().expect("a figure")
    }
}
