//! What an operator sets of places: the seccomp profile, what privileged ones are given, devices.
//!
//! A place keeps what it was made with. Its folder holds a mark of that, so that a blank one of an
//! earlier gardend's pool is not handed out under settings that are other by now.

use super::devices;
use super::seccomp::{self, Seccomp};
use crate::node::rights::{PrivilegedMode, Rights};
use gardend_controller::record::SandboxKind;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// Counts up with every change of the spec that blank places made before must not outlive.
const REVISION: u32 = 1;

/// The settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The filter of system calls of places that are not fully privileged.
    pub seccomp: SeccompProfile,
    /// What privileged places are given.
    pub privileged_mode: PrivilegedMode,
    /// Devices that every place may use.
    pub allowed_devices: Vec<AllowedDevice>,
}

/// A filter of system calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SeccompProfile {
    /// Ours.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// An operator's own, as OCI has it.
    Own(Box<Value>),
}

/// A device that containers may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AllowedDevice {
    /// One of the machine's, which containers find at the same path.
    Node {
        /// Below /dev.
        path: String,
        /// Of `rwm`.
        access: String,
    },
    /// Any node with these numbers, wherever it comes from.
    Rule {
        /// `a`, `b` or `c`.
        kind: char,
        /// `None`: every one.
        major: Option<u32>,
        /// `None`: every one.
        minor: Option<u32>,
        /// Of `rwm`.
        access: String,
    },
}

/// Why a seccomp profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It cannot be read.
    #[error("cannot read --seccomp-profile {path}: {source}")]
    Unreadable {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is something else.
    #[error("--seccomp-profile {path} is no seccomp profile of OCI's (`linux.seccomp` of a runtime spec): {why}")]
    Unfit {
        /// Which file.
        path: String,
        /// Why.
        why: String,
    },
}

impl Settings {
    /// What a place of this kind is given.
    pub fn rights(&self, kind: SandboxKind) -> Rights {
        self.privileged_mode.rights(kind == SandboxKind::Privileged)
    }

    /// What of the settings will not do what it says on this machine.
    pub fn faults(&self) -> Vec<String> {
        let node = |device: &AllowedDevice| match device {
            AllowedDevice::Node { path, access } => devices::fault(path, access),
            AllowedDevice::Rule { .. } => None,
        };
        let fuse =
            (self.privileged_mode == PrivilegedMode::FuseOnly).then(|| devices::fault(super::FUSE, "rw")).flatten();
        self.allowed_devices.iter().filter_map(node).chain(fuse).collect()
    }

    /// The filter of a place with these rights.
    pub(super) fn filter(&self, rights: Rights) -> Option<Filter> {
        match (rights, &self.seccomp) {
            (Rights::Full, _) | (_, SeccompProfile::Unconfined) => None,
            // An operator's own is for containers without privileges, and would take these away.
            (Rights::Fuse, _) => Some(Filter::Ours(seccomp::profile_with_mounts())),
            (Rights::Unprivileged, SeccompProfile::Default) => Some(Filter::Ours(seccomp::profile())),
            (Rights::Unprivileged, SeccompProfile::Own(profile)) => Some(Filter::Own(profile.clone())),
        }
    }

    /// Tells places made with these settings from others. Only what matters to the kind is in it.
    pub fn mark(&self, kind: SandboxKind) -> String {
        let rights = self.rights(kind);
        // Plain data: it cannot fail to become JSON.
        let text = serde_json::to_vec(&(REVISION, rights, self.filter(rights), &self.allowed_devices));
        let hash = Sha256::digest(text.unwrap_or_default());
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A filter, as it stands in a spec.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Filter {
    Ours(Seccomp),
    Own(Box<Value>),
}

impl SeccompProfile {
    /// Reads an operator's own.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn read(path: &Path) -> Result<Self, ProfileError> {
        let shown = path.display().to_string();
        let text = std::fs::read(path).map_err(|source| ProfileError::Unreadable { path: shown.clone(), source })?;
        let profile = seccomp::parse(&text).map_err(|why| ProfileError::Unfit { path: shown, why })?;
        Ok(Self::Own(Box::new(profile)))
    }
}

impl FromStr for AllowedDevice {
    type Err = String;

    /// Reads `/dev/fuse`, `/dev/fuse:rw`, or `c 10:229 rwm` with `*` for any number.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            let (path, access) = text.split_once(':').unwrap_or((text, "rwm"));
            let is_below_dev = path
                .strip_prefix("/dev/")
                .is_some_and(|name| !name.is_empty() && name.split('/').all(|part| !matches!(part, "" | "." | "..")));
            if !is_below_dev {
                return Err("a device's path begins with /dev/".to_owned());
            }
            return Ok(Self::Node { path: path.to_owned(), access: parse_access(access)? });
        }
        let mut words = text.split_ascii_whitespace();
        let (Some(kind), Some(numbers), Some(access), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(
                "not a device; say /dev/fuse, or a rule of cgroups as in `c 10:229 rwm` or `b 7:* rwm`".to_owned()
            );
        };
        let kind = match kind {
            "a" => 'a',
            "b" => 'b',
            "c" => 'c',
            other => return Err(format!("'{other}' is no kind of device: say b, c, or a for both")),
        };
        let (major, minor) = numbers.split_once(':').ok_or("the numbers are written MAJOR:MINOR, as in 10:229")?;
        Ok(Self::Rule { kind, major: parse_number(major)?, minor: parse_number(minor)?, access: parse_access(access)? })
    }
}

fn parse_number(text: &str) -> Result<Option<u32>, String> {
    match text {
        "*" => Ok(None),
        number => number.parse().map(Some).map_err(|_| format!("'{number}' is neither a number nor *")),
    }
}

/// Each letter once.
fn parse_access(text: &str) -> Result<String, String> {
    let is_known = |letter: char| "rwm".contains(letter);
    let once = |letter: char| text.matches(letter).count() == 1;
    match !text.is_empty() && text.chars().all(|letter| is_known(letter) && once(letter)) {
        true => Ok(text.to_owned()),
        false => Err(format!("'{text}' is no access: r, w and m (mknod), each at most once")),
    }
}

impl fmt::Display for AllowedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: &Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        match self {
            Self::Node { path, access } => write!(f, "{path}:{access}"),
            Self::Rule { kind, major, minor, access } => {
                write!(f, "{kind} {}:{} {access}", number(major), number(minor))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SandboxKind::{Privileged, Unprivileged};

    fn settings(mode: PrivilegedMode) -> Settings {
        Settings { privileged_mode: mode, ..Settings::default() }
    }

    #[test]
    fn devices_are_written_as_docker_and_as_concourse_have_them() {
        let rule = |kind, major, minor| AllowedDevice::Rule { kind, major, minor, access: "rwm".to_owned() };
        for (text, device) in [
            ("/dev/fuse", AllowedDevice::Node { path: "/dev/fuse".to_owned(), access: "rwm".to_owned() }),
            (
                "/dev/bus/usb/001/002:rw",
                AllowedDevice::Node { path: "/dev/bus/usb/001/002".to_owned(), access: "rw".to_owned() },
            ),
            ("c 10:229 rwm", rule('c', Some(10), Some(229))),
            ("b 7:* rwm", rule('b', Some(7), None)),
            ("a *:* rwm", rule('a', None, None)),
        ] {
            assert_eq!(text.parse(), Ok(device.clone()), "{text}");
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for (text, words) in [
            ("b", "say /dev/fuse"),
            ("b 7* rwm", "MAJOR:MINOR"),
            ("b 7:* rrr", "each at most once"),
            ("b 7:x rwm", "neither a number"),
            ("d 7:1 rwm", "no kind"),
            ("/etc/passwd", "begins with /dev/"),
            ("/dev/../etc/passwd", "begins with /dev/"),
            ("/dev/fuse:x", "no access"),
        ] {
            let error = text.parse::<AllowedDevice>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_mark_is_another_where_the_places_would_be_and_the_same_elsewhere() {
        let full = settings(PrivilegedMode::Full);
        assert_eq!(full.mark(Privileged), settings(PrivilegedMode::Full).mark(Privileged));
        assert_ne!(full.mark(Privileged), full.mark(Unprivileged));
        let fuse = settings(PrivilegedMode::FuseOnly);
        assert_ne!(full.mark(Privileged), fuse.mark(Privileged));
        assert_eq!(full.mark(Unprivileged), fuse.mark(Unprivileged), "the other kind is as it was");
        let unconfined = Settings { seccomp: SeccompProfile::Unconfined, ..Settings::default() };
        assert_ne!(full.mark(Unprivileged), unconfined.mark(Unprivileged));
        assert_eq!(full.mark(Privileged), unconfined.mark(Privileged), "it has no filter either way");
        let device = Settings { allowed_devices: vec!["/dev/fuse".parse().unwrap()], ..Settings::default() };
        assert_ne!(full.mark(Unprivileged), device.mark(Unprivileged));
    }

    #[test]
    fn a_profile_of_an_operators_own_is_read_and_anything_else_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            SeccompProfile::read(file.path()).map_err(|error| error.to_string())
        };
        let good = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls":
            [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#;
        let SeccompProfile::Own(profile) = read(good).unwrap() else { panic!("not its own") };
        assert_eq!(*profile, serde_json::from_str::<Value>(good).unwrap());
        for (text, words) in [
            ("", "EOF"),
            ("[]", "expected struct"),
            ("{}", "missing field `defaultAction`"),
            (r#"{"defaultAction": "ALLOW"}"#, "unknown variant `ALLOW`"),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "archMap": []}"#, "Docker's own format"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_KILL"}]}"#,
                "names no call",
            ),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "sycalls": []}"#, "unknown field `sycalls`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        let missing = SeccompProfile::read(Path::new("/not/there.json")).unwrap_err().to_string();
        assert!(missing.starts_with("cannot read --seccomp-profile /not/there.json: No such file"), "{missing}");
    }
}
