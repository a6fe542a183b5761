//! How registries are reached, as an operator sets it.

use super::endpoint::Mirror;
use std::path::PathBuf;

/// What an operator can set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryOptions {
    /// Asked before the registries that they are mirrors of, in this order.
    pub mirrors: Vec<Mirror>,
    /// Registries and mirrors that are spoken to without proof of who they are.
    pub insecure: Vec<String>,
    /// Files of certificate authorities, beside the machine's.
    pub authorities: Vec<PathBuf>,
    /// A docker configuration file with passwords.
    pub docker_config: Option<PathBuf>,
}
