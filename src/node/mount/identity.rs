//! What a container is called, from inside.

use super::error::{Result, attempting};
use super::owner::Owner;
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
}

impl Files {
    /// Where they are, in a place's folder.
    pub(super) fn of(place: &Path) -> Self {
        let etc = place.join("etc");
        Self { hosts: etc.join("hosts"), hostname: etc.join("hostname") }
    }
}

/// Writes them, owned by the container's root.
pub(super) fn write_files(place: &Path, hostname: &str, owner: Owner) -> Result<Files> {
    let etc = place.join("etc");
    let what = format!("writing {}", etc.display());
    let files = Files::of(place);
    (|| {
        match std::fs::create_dir(&etc) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
        write(&files.hosts, &hosts(hostname), owner)?;
        write(&files.hostname, &format!("{hostname}\n"), owner)
    })()
    .map_err(attempting(what))?;
    Ok(files)
}

fn hosts(hostname: &str) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    // Names in this file end at white space.
    if !hostname.contains(char::is_whitespace) {
        text.push_str(&format!("127.0.0.1\t{hostname}\n"));
    }
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

    #[test]
    fn a_hostname_that_the_hosts_file_cannot_carry_is_left_out_of_it() {
        assert!(hosts("one").ends_with("127.0.0.1\tone\n"));
        assert!(!hosts("two words").contains("two"));
    }
}
