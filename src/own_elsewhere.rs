//! What is gardend's own, where there are no mount namespaces: everything.

use std::io;
use std::path::{Path, PathBuf};

/// Why gardend cannot work among the host's mounts.
#[derive(Debug, thiserror::Error)]
#[error("--mount-namespace host needs Linux; leave the option out")]
pub struct EnterError;

/// Does nothing of it.
///
/// # Errors
/// Always.
pub fn work_on_host<T: Send>(_work: impl FnOnce() -> T + Send) -> Result<T, EnterError> {
    Err(EnterError)
}

/// A path is itself.
///
/// # Errors
/// None.
pub fn file(path: &Path) -> io::Result<PathBuf> {
    Ok(path.to_owned())
}
