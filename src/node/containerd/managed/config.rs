//! The configuration of a managed containerd: its own folders, and only the parts that we use.
//!
//! Version 2 of the format, which containerd 1.6 writes and 2.x still reads. A plugin that a
//! version does not have is ignored in its list of disabled ones.

use std::io;
use std::path::Path;

/// What places, images and snapshots do not need, of 1.6 and of 2.x.
const DISABLED: &[&str] = &[
    // Kubernetes' side
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.podsandbox.controller.v1.podsandbox",
    "io.containerd.nri.v1.nri",
    "io.containerd.sandbox.controller.v1.shim",
    "io.containerd.grpc.v1.sandbox-controllers",
    "io.containerd.grpc.v1.sandboxes",
    // Snapshotters, mounts and differs other than overlayfs and the walking one
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.erofs",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.differ.v1.erofs",
    "io.containerd.mount-handler.v1.erofs",
    // Somebody else's duties: restarting, verifying, pulling, measuring, tracing
    "io.containerd.internal.v1.restart",
    "io.containerd.monitor.container.v1.restart",
    "io.containerd.monitor.v1.cgroups",
    "io.containerd.monitor.task.v1.cgroups",
    "io.containerd.image-verifier.v1.bindir",
    "io.containerd.transfer.v1.local",
    "io.containerd.grpc.v1.transfer",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.ttrpc.v1.otelttrpc",
    "io.containerd.metrics.v1.grpc-prometheus",
    "io.containerd.metrics.v1.grpc-otel",
    "io.containerd.http.v1.pprof",
];

/// Where a managed containerd keeps things.
#[derive(Debug)]
pub(super) struct Paths<'a> {
    /// What outlives a reboot.
    pub root: &'a Path,
    /// What does not.
    pub state: &'a Path,
    /// Where it listens.
    pub socket: &'a Path,
}

/// The configuration file's content.
pub(super) fn text(paths: &Paths<'_>) -> io::Result<String> {
    let disabled: Vec<_> = DISABLED.iter().map(|plugin| format!("  \"{plugin}\",\n")).collect();
    Ok(format!(
        "# Written by gardend at each start; changes are lost.\n\
         version = 2\n\
         root = {root}\n\
         state = {state}\n\
         disabled_plugins = [\n{disabled}]\n\n\
         [grpc]\n  address = {socket}\n\n\
         [debug]\n  level = \"warn\"\n  format = \"json\"\n\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\n  path = {opt}\n",
        root = quoted(paths.root)?,
        state = quoted(paths.state)?,
        socket = quoted(paths.socket)?,
        opt = quoted(&paths.root.join("opt"))?,
        disabled = disabled.concat(),
    ))
}

/// A TOML basic string.
fn quoted(path: &Path) -> io::Result<String> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
    let text = text.ok_or_else(|| {
        io::Error::other(format!("{} cannot be written into containerd's configuration; rename it", path.display()))
    })?;
    Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_its_own_and_quoted() {
        let paths = Paths {
            root: Path::new("/var/a \"b\"/containerd"),
            state: Path::new("/run/x/containerd"),
            socket: Path::new("/run/x/containerd/containerd.sock"),
        };
        let text = text(&paths).unwrap();
        assert!(text.contains("root = \"/var/a \\\"b\\\"/containerd\"\n"));
        assert!(text.contains("path = \"/var/a \\\"b\\\"/containerd/opt\"\n"));
        assert!(text.contains("\"io.containerd.grpc.v1.cri\",\n"));
        assert!(quoted(Path::new("/a\nb")).is_err());
    }
}
