//! A client's side: whom it trusts, and what it shows.

use super::files::{FileError, authorities, certificates, machines_authorities, private_key, provider};
use super::relay::relay;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// More than a hundred files: read once, and not for each connection of a proxy or of `top`.
static MACHINES: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| Arc::new(machines_authorities()));

/// What a client has to prove who it is, and to know whom it speaks to: files, read at each connection;
/// the machine's authorities are read once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Authorities in the place of the machine's. PEM.
    pub authorities: Option<PathBuf>,
    /// A certificate and its private key. PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// A token, sent with each request.
    pub token: Option<PathBuf>,
}

impl Credentials {
    /// The token, where there is one.
    ///
    /// # Errors
    /// It cannot be read, or could not be sent.
    pub fn read_token(&self) -> Result<Option<String>, FileError> {
        let Some(path) = &self.token else { return Ok(None) };
        let text = std::fs::read_to_string(path).map_err(|error| FileError::new(path, error))?;
        match text.trim() {
            "" => Err(FileError::new(path, "holds no token")),
            token if token.bytes().any(|byte| !byte.is_ascii_graphic()) => {
                Err(FileError::new(path, "holds more than one token"))
            }
            token => Ok(Some(token.to_owned())),
        }
    }

    fn config(&self) -> Result<ClientConfig, FileError> {
        let roots = match &self.authorities {
            Some(path) => Arc::new(authorities(path)?),
            None => MACHINES.clone(),
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| FileError::new(self.authorities.as_deref().unwrap_or("TLS".as_ref()), error))?
            .with_root_certificates(roots);
        match &self.certificate {
            Some((certificate, key)) => {
                let (chain, private) = (certificates(certificate)?, private_key(key)?);
                builder.with_client_auth_cert(chain, private).map_err(|error| FileError::new(certificate, error))
            }
            None => Ok(builder.with_no_client_auth()),
        }
    }
}

/// Agrees on TLS with a server that `host` names; the bytes are moved by a task that ends with the connection.
///
/// # Errors
/// A file of the credentials is of no use; or the server is not whom it should be.
pub async fn connect(stream: TcpStream, host: &str, credentials: &Credentials) -> io::Result<UnixStream> {
    let config = credentials.config().map_err(io::Error::other)?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (stream, inner) = UnixStream::pair()?;
    tokio::spawn(async move {
        if let Err(error) = relay(tls, inner).await {
            tracing::debug!(%error, "a connection by TLS broke");
        }
    });
    Ok(stream)
}
