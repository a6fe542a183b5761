//! Images of a test's own making, in an OCI layout: layers of any files, and what describes them.

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `sha256:` and the digits.
pub fn digest(bytes: &[u8]) -> String {
    let digits: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

/// What Docker and OCI call this machine's kind.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A root file system with a shell and its programs, as a tar, owned by root.
pub fn busybox(scratch: &Path) -> Vec<u8> {
    let root = scratch.join("busybox");
    let script = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let made = Command::new(script.join("scripts/busybox-rootfs.sh")).arg(&root).output().expect("the script runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut tar = tar::Builder::new(Vec::new());
    tar.follow_symlinks(false);
    tar.append_dir_all(".", &root).expect("it is packed");
    tar.into_inner().expect("it is packed")
}

/// A tar of one file.
pub fn one_file(path: &str, content: &str) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, path, content.as_bytes()).expect("it is packed");
    tar.into_inner().expect("it is packed")
}

/// A folder in OCI's image layout.
pub struct Layout(pub PathBuf);

impl Layout {
    pub fn new(folder: PathBuf) -> Self {
        fs::create_dir_all(folder.join("blobs/sha256")).expect("a folder");
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a file");
        Self(folder)
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        fs::write(self.0.join("blobs/sha256").join(&digest[7..]), bytes).expect("a blob");
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// An image of these layers, which are tars, by this tag alone.
    pub fn image(&self, tag: &str, layers: &[Vec<u8>], env: &[&str]) -> String {
        let packed = layers.iter().map(|layer| {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(layer).expect("it is packed");
            self.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip.finish().expect("it is packed"))
        });
        let packed: Vec<_> = packed.collect();
        let diffs: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
        let config = json!({
            "os": "linux", "architecture": architecture(), "config": { "Env": env },
            "rootfs": { "type": "layers", "diff_ids": diffs },
        });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": packed });
        let mut entry = self.blob(kind, manifest.to_string().as_bytes());
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        fs::write(self.0.join("index.json"), index.to_string()).expect("an index");
        format!("oci-layout://{}:{tag}", self.0.display())
    }
}
