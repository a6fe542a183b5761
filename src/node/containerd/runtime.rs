//! The OCI runtime that places are made with, and what the shim is told of it.

use std::path::{Path, PathBuf};
use std::str::FromStr;

/// runc, crun, or one that takes the same command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime(PathBuf);

impl Runtime {
    /// Debian's and containerd's default.
    pub fn runc() -> Self {
        Self("runc".into())
    }

    /// The smaller and quicker one.
    pub fn crun() -> Self {
        Self("crun".into())
    }

    /// As it was given: a name that the shim looks up in its PATH, or an absolute path.
    pub fn program(&self) -> &Path {
        &self.0
    }

    /// The program's own name.
    pub fn name(&self) -> &str {
        self.0.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// What the shim is told: which program, where it keeps its state, and to make no session
    /// keyring. All unprivileged places share one kernel uid and with it one quota of keys: at
    /// some 200 keyrings no further place could be made.
    pub(super) fn shim_options(&self, state: &Path) -> prost_types::Any {
        let options = ShimOptions {
            no_new_keyring: true,
            binary_name: self.0.to_string_lossy().into_owned(),
            root: state.to_string_lossy().into_owned(),
        };
        prost_types::Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: prost::Message::encode_to_vec(&options),
        }
    }
}

/// Not a runtime that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("runtime '{0}' is neither a program's name nor an absolute path; give runc, crun or a path")]
pub struct InvalidRuntime(String);

impl FromStr for Runtime {
    type Err = InvalidRuntime;

    fn from_str(text: &str) -> Result<Self, InvalidRuntime> {
        let path = Path::new(text);
        let usable = !text.is_empty() && (path.is_absolute() || !text.contains('/'));
        if usable { Ok(Self(path.to_owned())) } else { Err(InvalidRuntime(text.to_owned())) }
    }
}

/// The part that we use of containerd's message `containerd.runc.v1.Options`
/// (api/types/runc/options/oci.proto, the same numbers in 1.6 and 2.x).
#[derive(Clone, PartialEq, prost::Message)]
struct ShimOptions {
    /// Leave the session keyring as it is.
    #[prost(bool, tag = "2")]
    no_new_keyring: bool,
    /// The runtime's program.
    #[prost(string, tag = "6")]
    binary_name: String,
    /// The runtime's state folder.
    #[prost(string, tag = "7")]
    root: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_or_an_absolute_path_is_a_runtime_and_nothing_else_is() {
        assert_eq!("crun".parse(), Ok(Runtime::crun()));
        assert_eq!("/opt/bin/crun".parse::<Runtime>().unwrap().name(), "crun");
        assert!("bin/crun".parse::<Runtime>().is_err());
        assert!("".parse::<Runtime>().is_err());
    }
}
