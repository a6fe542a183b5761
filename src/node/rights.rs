//! What containers that ask for privileges are given.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::Serialize;

/// What an operator lets privileged containers have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, JsonSchema)]
#[schemars(rename_all = "kebab-case", inline)]
pub enum PrivilegedMode {
    /// All there is: root in one is root on the machine.
    #[default]
    Full,
    /// Mounts, FUSE and namespaces within a user namespace: enough to build and run images in one.
    FuseOnly,
    /// What any other container has.
    Ignore,
}

/// What a container is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rights {
    /// A user namespace, and little in it.
    Unprivileged,
    /// A user namespace, and mounts in it.
    Fuse,
    /// The machine's own.
    Full,
}

impl PrivilegedMode {
    /// What a container is given that asks for privileges, or does not.
    pub fn rights(self, privileged: bool) -> Rights {
        match (privileged, self) {
            (false, _) | (true, Self::Ignore) => Rights::Unprivileged,
            (true, Self::FuseOnly) => Rights::Fuse,
            (true, Self::Full) => Rights::Full,
        }
    }
}

impl Rights {
    /// Its root is the machine's.
    pub fn is_full(self) -> bool {
        self == Self::Full
    }
}
