//! A server's side: whom it shows itself as, and who may come in.

use super::files::{FileError, Watched, authorities, certificates, private_key, provider};
use super::relay::{LAST_BYTES, relay};
use super::tokens::Tokens;
use async_trait::async_trait;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// How long a client may take to agree on TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How a server is secured: by files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecureOptions {
    /// The server's certificate, and those that lead to its authority. PEM.
    pub certificate: PathBuf,
    /// Its private key. PEM.
    pub key: PathBuf,
    /// Authorities whose clients may come in. PEM.
    pub client_authorities: Option<PathBuf>,
    /// Tokens by which clients may come in.
    pub tokens: Option<PathBuf>,
}

/// What a token is found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It belongs to somebody who may come in: their name.
    Known(Arc<str>),
    /// It is nobody's; more of why, where that is known.
    Unknown(Option<Arc<str>>),
    /// It belongs to somebody who may not come in: why, and what to do.
    Forbidden(Arc<str>),
}

/// Tells whom a token belongs to.
#[async_trait]
pub trait Verifier: Send + Sync {
    /// Whether the token lets somebody in, and whom.
    ///
    /// # Errors
    /// That could not be found out now, in words for a person.
    async fn verify(&self, token: &str) -> Result<Verdict, String>;
}

#[async_trait]
impl Verifier for Arc<Tokens> {
    async fn verify(&self, token: &str) -> Result<Verdict, String> {
        let (tokens, token) = (self.clone(), token.to_owned());
        // It looks at the file.
        let looked = tokio::task::spawn_blocking(move || tokens.name_of(&token)).await;
        let found = looked.map_err(|error| format!("the tokens cannot be looked through: {error}"))?;
        Ok(found.map_or(Verdict::Unknown(None), Verdict::Known))
    }
}

/// The list in a file, and whoever is asked about tokens that are not on it.
struct Listed {
    tokens: Arc<Tokens>,
    others: Arc<dyn Verifier>,
}

#[async_trait]
impl Verifier for Listed {
    async fn verify(&self, token: &str) -> Result<Verdict, String> {
        match self.tokens.verify(token).await? {
            Verdict::Unknown(_) => self.others.verify(token).await,
            known => Ok(known),
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone)]
pub enum Identity {
    /// Whoever the system let through: loopback, or a socket's file.
    Trusted,
    /// One who showed a certificate that is trusted.
    Certified,
    /// One who must show a token with each request.
    Unproven(Arc<dyn Verifier>),
}

/// A client that TLS was agreed on with.
pub struct Accepted {
    /// What the server reads and writes.
    pub stream: UnixStream,
    /// Moves the bytes; to be polled beside whatever serves the stream, until it ends.
    pub relay: Relay,
    /// Who it is.
    pub identity: Identity,
}

type Tls = tokio_rustls::server::TlsStream<TcpStream>;

/// Moves the bytes of a connection between TLS and the server's own socket.
pub struct Relay {
    tls: Tls,
    inner: UnixStream,
}

impl Relay {
    /// Does so while `serving` goes on, and afterwards until the client has the last of them.
    pub async fn during(self, serving: impl Future<Output = ()>) {
        let mut moving = std::pin::pin!(relay(self.tls, self.inner));
        let mut serving = std::pin::pin!(serving);
        // Both are pinned and go on where they were.
        let moved = tokio::select! {
            moved = &mut moving => { serving.await; moved }
            () = &mut serving => timeout(LAST_BYTES, moving).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        };
        if let Err(error) = moved {
            tracing::debug!(%error, "a connection by TLS broke");
        }
    }
}

/// What secures a server's listeners.
#[derive(Clone)]
pub struct Secure {
    config: Arc<Watched<ServerConfig>>,
    verifier: Option<Arc<dyn Verifier>>,
}

impl Secure {
    /// Reads the files for the first time. `others` is asked about tokens that are in no file.
    ///
    /// # Errors
    /// Which cannot be used, and why.
    pub fn new(options: SecureOptions, others: Option<Arc<dyn Verifier>>) -> Result<Self, FileError> {
        let tokens = options.tokens.clone().map(Tokens::new).transpose()?.map(Arc::new);
        let verifier: Option<Arc<dyn Verifier>> = match (tokens, others) {
            (Some(tokens), Some(others)) => Some(Arc::new(Listed { tokens, others })),
            (Some(tokens), None) => Some(Arc::new(tokens)),
            (None, others) => others,
        };
        let mut paths = vec![options.certificate.clone(), options.key.clone()];
        paths.extend(options.client_authorities.clone());
        let by_token = verifier.is_some();
        let config = Watched::new(paths, move || config(&options, by_token))?;
        Ok(Self { config: Arc::new(config), verifier })
    }

    /// Agrees on TLS with a client.
    ///
    /// # Errors
    /// It did not, in time or at all; or showed no certificate where it needs one.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Accepted> {
        let config = self.config.clone();
        // It looks at the files.
        let config = tokio::task::spawn_blocking(move || config.get()).await.map_err(io::Error::other)?;
        let tls = timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await??;
        let certified = tls.get_ref().1.peer_certificates().is_some();
        let identity = match &self.verifier {
            _ if certified => Identity::Certified,
            Some(verifier) => Identity::Unproven(verifier.clone()),
            None => return Err(io::Error::new(io::ErrorKind::PermissionDenied, "no certificate was shown")),
        };
        let (stream, inner) = UnixStream::pair()?;
        Ok(Accepted { stream, relay: Relay { tls, inner }, identity })
    }
}

fn config(options: &SecureOptions, by_token: bool) -> Result<ServerConfig, FileError> {
    let wrong = |path: &PathBuf, error: &dyn std::fmt::Display| FileError::new(path, error);
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&options.certificate, &error))?;
    let builder = match &options.client_authorities {
        Some(path) => {
            let roots = Arc::new(authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let verifier = if by_token { verifier.allow_unauthenticated() } else { verifier };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| wrong(path, &error))?)
        }
        None => builder.with_no_client_auth(),
    };
    let (chain, key) = (certificates(&options.certificate)?, private_key(&options.key)?);
    builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            let why = format!("is not the key of the certificate in {}", options.certificate.display());
            FileError::new(&options.key, why)
        }
        error => wrong(&options.certificate, &error),
    })
}
