//! Files whose content is used in another form, and made anew when they change.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, crypto};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Why a file is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct FileError {
    path: PathBuf,
    why: String,
}

impl FileError {
    pub(super) fn new(path: &Path, why: impl ToString) -> Self {
        Self { path: path.to_owned(), why: why.to_string() }
    }
}

/// The certificates in a PEM file: a chain, or authorities.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match all {
        Ok(all) if all.is_empty() => Err(FileError::new(path, "holds no certificate in PEM")),
        Ok(all) => Ok(all),
        Err(error) => Err(FileError::new(path, error)),
    }
}

/// The authorities in a PEM file.
pub(super) fn authorities(path: &Path) -> Result<RootCertStore, FileError> {
    let mut store = RootCertStore::empty();
    add_authorities(&mut store, path)?;
    Ok(store)
}

/// Adds the authorities in a PEM file.
///
/// # Errors
/// It cannot be read, or holds none that can be used.
pub fn add_authorities(store: &mut RootCertStore, path: &Path) -> Result<(), FileError> {
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|error| FileError::new(path, error))?;
    }
    Ok(())
}

/// The machine's authorities, or those of SSL_CERT_FILE and SSL_CERT_DIR, as everywhere. One that
/// cannot be used is one that nobody is trusted by.
pub fn machines_authorities() -> RootCertStore {
    let machine = rustls_native_certs::load_native_certs();
    for error in &machine.errors {
        tracing::debug!(%error, "a certificate authority of the machine's is not read");
    }
    let mut store = RootCertStore::empty();
    let (_, unusable) = store.add_parsable_certificates(machine.certs);
    if unusable > 0 {
        tracing::debug!(unusable, "certificate authorities of the machine's that cannot be used");
    }
    store
}

/// The private key in a PEM file.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| FileError::new(path, format!("no private key in PEM: {error}")))
}

/// The implementation of TLS, given by hand, so that nothing depends on a default of the whole process.
pub fn provider() -> Arc<crypto::CryptoProvider> {
    Arc::new(crypto::ring::default_provider())
}

/// Tells one state of a file from another.
type Mark = Option<(u64, u64, i64, i64)>;

fn mark(path: &Path) -> Mark {
    // Followed: a mounted secret is a link to the folder of its present version.
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

/// What is made of some files, made again once one of them is another.
pub(super) struct Watched<T> {
    paths: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, FileError> + Send + Sync>,
    current: Mutex<(Vec<Mark>, Arc<T>)>,
}

impl<T> Watched<T> {
    /// Makes it for the first time.
    pub(super) fn new(
        paths: Vec<PathBuf>,
        make: impl Fn() -> Result<T, FileError> + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        // Before they are read: what changes meanwhile is seen at the next look.
        let marks = paths.iter().map(|path| mark(path)).collect();
        let made = Arc::new(make()?);
        Ok(Self { paths, make: Box::new(make), current: Mutex::new((marks, made)) })
    }

    /// What the files hold now, or what they held when they could last be read. Touches the disk.
    pub(super) fn get(&self) -> Arc<T> {
        let marks: Vec<Mark> = self.paths.iter().map(|path| mark(path)).collect();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != marks {
            match (self.make)() {
                Ok(made) => {
                    tracing::info!(files = ?self.paths, "read again what has changed");
                    current.1 = Arc::new(made);
                }
                Err(error) => tracing::warn!(%error, "what has changed cannot be used; what was read before stays"),
            }
            // Told once a change.
            current.0 = marks;
        }
        current.1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changed_is_read_again_and_one_that_broke_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        let put = |text: &str| {
            // As an operator's tools do it: another file under the same name.
            let next = folder.path().join("next");
            std::fs::write(&next, text).unwrap();
            std::fs::rename(&next, &path).unwrap();
        };
        put("1");
        let file = path.clone();
        let number = Watched::new(vec![path.clone()], move || {
            let text = std::fs::read_to_string(&file).map_err(|error| FileError::new(&file, error))?;
            text.parse::<u32>().map_err(|error| FileError::new(&file, error))
        })
        .unwrap();
        assert_eq!(*number.get(), 1);
        put("2");
        assert_eq!(*number.get(), 2);
        put("no number");
        assert_eq!(*number.get(), 2);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*number.get(), 2);
        put("3");
        assert_eq!(*number.get(), 3);
    }
}
