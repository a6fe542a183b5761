//! What a container is called, from inside.

use super::error::{Result, attempting};
use super::owner::Owner;
use crate::node::network::Resolver;
use gardend_controller::ports::NetworkWanted;
use gardend_controller::record::Handle;
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// As Garden servers cut it; the kernel takes 64.
const MAX_HOSTNAME_BYTES: usize = 49;

/// The last 49 bytes of the handle, or one to three fewer where the cut is within a character.
pub(super) fn hostname(handle: &Handle) -> &str {
    let name = handle.as_str();
    let cut = (name.len().saturating_sub(MAX_HOSTNAME_BYTES)..name.len()).find(|at| name.is_char_boundary(*at));
    cut.map_or(name, |at| &name[at..])
}

/// The files of a place's `etc/` folder that its container sees.
pub(super) struct Files {
    pub(super) hosts: PathBuf,
    pub(super) hostname: PathBuf,
    /// Only where it has a network.
    pub(super) resolv_conf: PathBuf,
}

impl Files {
    /// Where they are, in a place's folder.
    pub(super) fn of(place: &Path) -> Self {
        let etc = place.join("etc");
        Self { hosts: etc.join("hosts"), hostname: etc.join("hostname"), resolv_conf: etc.join("resolv.conf") }
    }
}

/// What they say.
pub(super) struct Names<'a> {
    pub(super) hostname: &'a str,
    pub(super) network: Option<&'a NetworkWanted>,
    pub(super) resolver: &'a Resolver,
}

/// Writes them, owned by the container's root.
pub(super) fn write_files(place: &Path, names: &Names<'_>, owner: Owner) -> Result<Files> {
    let etc = place.join("etc");
    let what = format!("writing {}", etc.display());
    let files = Files::of(place);
    (|| {
        match std::fs::create_dir(&etc) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
        write(&files.hosts, &hosts(names), owner)?;
        if names.network.is_some() {
            write(&files.resolv_conf, &names.resolver.resolv_conf(names.network), owner)?;
        }
        write(&files.hostname, &format!("{}\n", names.hostname), owner)
    })()
    .map_err(attempting(what))?;
    Ok(files)
}

fn hosts(names: &Names<'_>) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    text.push_str(&names.resolver.hosts(names.network, names.hostname));
    text
}

fn write(path: &Path, content: &str, owner: Owner) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file: OwnedFd = rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o644))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
    rustix::fs::fchown(&file, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
    std::fs::File::from(file).write_all(content.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostname_is_the_end_of_the_handle_in_whole_characters() {
        let name = |handle: &str| hostname(&Handle::new(handle).unwrap()).to_owned();
        assert_eq!(name("short"), "short");
        assert_eq!(name(&"x".repeat(49)), "x".repeat(49));
        assert_eq!(name(&format!("cut{}", "x".repeat(49))), "x".repeat(49));
        // 25 characters of two bytes: the 49th byte from the end is the middle of one.
        assert_eq!(name(&"ü".repeat(25)), "ü".repeat(24));
        assert_eq!(name(&"🌱".repeat(20)), "🌱".repeat(12));
    }
}
