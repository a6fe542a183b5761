//! What an operator sets of places: the seccomp profile, what privileged ones are given, devices.
//!
//! A place keeps what it was made with. Its folder holds a mark of that, so that a blank one of an
//! earlier gardend's pool is not handed out under settings that are other by now.

use super::allowed_device::AllowedDevice;
use super::devices;
use super::seccomp::{self, Seccomp};
use crate::node::rights::{PrivilegedMode, Rights};
use gardend_controller::record::SandboxKind;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;

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

#[cfg(test)]
mod tests {
    use super::*;
    use SandboxKind::{Privileged, Unprivileged};

    fn settings(mode: PrivilegedMode) -> Settings {
        Settings { privileged_mode: mode, ..Settings::default() }
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
