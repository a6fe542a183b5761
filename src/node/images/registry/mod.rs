//! A client of registries, as far as pulls need one (OCI's distribution specification, and what
//! Docker's registries did before it).
//!
//! Why our own: the crates that there are hold manifests of any size in memory, bring a TLS stack
//! built from C, and cannot be told that a redirection must not see a password. HTTP, TLS, proxies
//! (HTTPS_PROXY, NO_PROXY) and connections are reqwest's and rustls's.
//!
//! Promises: connecting, and each wait for more bytes, has a deadline, a pull as a whole has none;
//! what fails for the moment is tried again with backoff, a blob from where it broke; mirrors come
//! first, and whatever is wrong with one, the next is asked, the registry itself last.

mod challenge;
mod endpoint;
mod error;
mod options;
mod request;
mod tls;
mod tokens;

pub use endpoint::Mirror;
pub(crate) use error::RegistryError;
pub use options::RegistryOptions;

use super::manifest::{MANIFEST_TYPES, digest_of};
use crate::docker_config::DockerConfig;
use endpoint::Endpoint;
use gardend_controller::record::{ImageCredentials, ImageDigest};
use request::{Clients, Question};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Client, Method, Response, StatusCode, redirect};
use std::sync::Arc;
use std::time::Duration;
use tokens::Tokens;

/// For a connection, TLS included.
const CONNECTS: Duration = Duration::from_secs(15);
/// For the next byte.
const IDLE: Duration = Duration::from_secs(60);
/// Attempts at a request that fails for the moment.
const ATTEMPTS: u32 = 5;
/// The longest wait between two of them.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// What a manifest, an index or a configuration may take; registries refuse larger ones.
pub(crate) const MAX_DOCUMENT: usize = 8 * 1024 * 1024;

/// All registries, by the options of one gardend. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Registries {
    clients: Arc<Clients>,
    options: Arc<RegistryOptions>,
}

impl Registries {
    /// Reads what the options name.
    ///
    /// # Errors
    /// Which option is wrong, and why.
    pub(crate) fn new(options: RegistryOptions) -> Result<Self, String> {
        if let Some(path) = &options.docker_config {
            DockerConfig::read(path)?;
        }
        let client = |tls| {
            let builder = Client::builder()
                .tls_backend_preconfigured(tls)
                .redirect(redirect::Policy::none())
                .connect_timeout(CONNECTS)
                .read_timeout(IDLE)
                .user_agent(concat!("gardend/", env!("CARGO_PKG_VERSION")));
            builder.build().map_err(|error| format!("no client of registries can be made: {error}"))
        };
        let clients = Clients {
            verifying: client(tls::verifying(&options.authorities)?)?,
            trusting: client(tls::trusting()?)?,
            tokens: Tokens::new(),
        };
        Ok(Self { clients: Arc::new(clients), options: Arc::new(options) })
    }

    /// One repository, as whoever has these credentials sees it.
    ///
    /// # Errors
    /// Where the docker configuration file cannot be read any more.
    pub(crate) fn repository(
        &self,
        host: &str,
        name: &str,
        credentials: Option<&ImageCredentials>,
    ) -> Result<Repository, String> {
        let config = self.options.docker_config.as_deref().map(DockerConfig::read).transpose()?;
        let known = |host: &str| config.as_ref().and_then(|config| config.of(host)).cloned();
        let insecure = &self.options.insecure;
        let mirrors = self.options.mirrors.iter().filter_map(|mirror| mirror.endpoint_for(host, insecure));
        // What a client gives is for the registry that it names, and not for its mirrors.
        let mirrors = mirrors.map(|endpoint| {
            let credentials = known(&endpoint.authority);
            Source { endpoints: vec![endpoint], credentials }
        });
        let credentials = credentials.cloned().or_else(|| known(host));
        let itself = Source { endpoints: Endpoint::of(host, insecure), credentials };
        Ok(Repository {
            clients: Arc::clone(&self.clients),
            name: name.to_owned(),
            sources: mirrors.chain(std::iter::once(itself)).collect(),
        })
    }
}

/// Where a repository is asked for: a mirror, or the registry itself.
struct Source {
    /// Ways to speak to it, the better first.
    endpoints: Vec<Endpoint>,
    credentials: Option<ImageCredentials>,
}

/// One repository. See [`Registries::repository`].
pub(crate) struct Repository {
    clients: Arc<Clients>,
    name: String,
    sources: Vec<Source>,
}

/// A blob that flows.
pub(crate) struct BlobStream {
    host: String,
    response: Response,
    /// Where it begins: what was asked for, or 0 where the registry cannot begin elsewhere.
    pub(crate) offset: u64,
}

impl BlobStream {
    /// What comes next; `None` at the end, which may come too early.
    pub(crate) async fn next(&mut self) -> Result<Option<bytes::Bytes>, RegistryError> {
        self.response.chunk().await.map_err(|error| RegistryError::of_transport(&self.host, &error))
    }
}

impl Repository {
    /// Whether nobody had to be shown a password: what is pulled so is anybody's.
    pub(crate) fn is_anonymous(&self) -> bool {
        self.sources.iter().all(|source| source.credentials.is_none())
    }

    /// The digest that a tag (or a digest) stands for now.
    pub(crate) async fn resolve(&self, version: &str) -> Result<ImageDigest, RegistryError> {
        let what = format!("manifests/{version}");
        let response = self.ask(Method::HEAD, &what, manifest_headers(), Patience::All).await;
        match response {
            Ok((_, response)) => {
                let header = response.headers().get("docker-content-digest");
                let digest = header.and_then(|value| ImageDigest::new(value.to_str().ok()?).ok());
                if let Some(digest) = digest {
                    return Ok(digest);
                }
            }
            // A HEAD has no words in it: the same is asked again for them.
            Err(RegistryError::NotFound { .. } | RegistryError::Denied { .. } | RegistryError::Nonsense { .. }) => {}
            Err(error) => return Err(error),
        }
        let (host, response) = self.ask(Method::GET, &what, manifest_headers(), Patience::All).await?;
        Ok(digest_of(&request::limited(&host, response, MAX_DOCUMENT, "a manifest").await?))
    }

    /// A manifest or index, which is what its digest says.
    pub(crate) async fn manifest(&self, digest: &ImageDigest) -> Result<Vec<u8>, RegistryError> {
        self.document(&format!("manifests/{digest}"), digest, manifest_headers(), "a manifest").await
    }

    /// A small blob, which is what its digest says.
    pub(crate) async fn small_blob(&self, digest: &ImageDigest) -> Result<Vec<u8>, RegistryError> {
        self.document(&format!("blobs/{digest}"), digest, HeaderMap::new(), "a configuration").await
    }

    async fn document(
        &self,
        path: &str,
        digest: &ImageDigest,
        headers: HeaderMap,
        what: &str,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (host, response) = self.ask(Method::GET, path, headers.clone(), Patience::All).await?;
            match request::limited(&host, response, MAX_DOCUMENT, what).await {
                Ok(body) if digest_of(&body) == *digest => return Ok(body),
                Ok(body) => {
                    let said = format!("sends {what} with the digest {}, and {digest} was asked for", digest_of(&body));
                    return Err(RegistryError::Nonsense { host, said });
                }
                Err(error) if error.is_transient() && attempt < ATTEMPTS => pause(attempt, &error).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// A blob from a place in it on, or from its beginning. One attempt: who reads it knows how
    /// far it came.
    pub(crate) async fn blob(&self, digest: &ImageDigest, offset: u64) -> Result<BlobStream, RegistryError> {
        let mut headers = HeaderMap::new();
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            headers.insert(header::RANGE, range);
        }
        let (host, response) = self.ask(Method::GET, &format!("blobs/{digest}"), headers, Patience::None).await?;
        let offset = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
                let begins = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
                match begins {
                    Some(begins) if begins <= offset => begins,
                    _ => {
                        let said = format!("was asked for a blob from byte {offset} on and sends another part of it");
                        return Err(RegistryError::Nonsense { host, said });
                    }
                }
            }
            _ => 0,
        };
        Ok(BlobStream { host, response, offset })
    }

    /// Asks everybody in turn; answers who did.
    async fn ask(
        &self,
        method: Method,
        what: &str,
        headers: HeaderMap,
        patience: Patience,
    ) -> Result<(String, Response), RegistryError> {
        let last = self.sources.len().saturating_sub(1);
        let mut failure = None;
        for (index, source) in self.sources.iter().enumerate() {
            let attempts = if index == last && patience == Patience::All { ATTEMPTS } else { 1 };
            match self.ask_source(source, &method, what, &headers, attempts).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    if index < last {
                        tracing::warn!(repository = %self.name, %error, "a mirror does not help; the next is asked");
                    }
                    failure = Some(error);
                }
            }
        }
        Err(failure.unwrap_or_else(|| RegistryError::Nonsense { host: String::new(), said: "has no address".into() }))
    }

    async fn ask_source(
        &self,
        source: &Source,
        method: &Method,
        what: &str,
        headers: &HeaderMap,
        attempts: u32,
    ) -> Result<(String, Response), RegistryError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut failure = None;
            for endpoint in &source.endpoints {
                let question = Question {
                    method: method.clone(),
                    endpoint,
                    name: &self.name,
                    what,
                    headers: headers.clone(),
                    credentials: source.credentials.as_ref(),
                };
                match self.clients.ask(&question).await {
                    Ok(response) => return Ok((endpoint.authority.clone(), response)),
                    // Perhaps it speaks the other way.
                    Err(error @ RegistryError::Broken { .. }) => failure = Some(error),
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                }
            }
            match failure {
                Some(error) if error.is_transient() && attempt < attempts => pause(attempt, &error).await,
                Some(error) => return Err(error),
                None => {
                    let said = "has no address".into();
                    return Err(RegistryError::Nonsense { host: self.name.clone(), said });
                }
            }
        }
    }
}

/// Whether what fails for the moment is tried again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    All,
    None,
}

/// Waits before another attempt: longer each time, and as long as was asked for.
pub(crate) async fn pause(attempt: u32, error: &RegistryError) {
    let chance = getrandom::u32().map_or(0.5, |word| f64::from(word) / f64::from(u32::MAX));
    let backoff = Duration::from_millis(200) * 2u32.saturating_pow(attempt.min(7));
    let wait = backoff.mul_f64(0.5 + chance / 2.0).max(error.after().unwrap_or_default()).min(LONGEST_WAIT);
    tracing::debug!(%error, ?wait, "a registry is asked again");
    tokio::time::sleep(wait).await;
}

fn manifest_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for kind in MANIFEST_TYPES {
        headers.append(header::ACCEPT, HeaderValue::from_static(kind));
    }
    headers
}
