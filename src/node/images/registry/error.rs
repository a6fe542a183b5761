//! What a registry, or the way to it, answers when there is nothing to be had.

use super::super::error::chain;
use std::time::Duration;

/// Why a request did not bring what it was for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// It does not know what was asked for.
    #[error("{host} says: {said}")]
    NotFound {
        /// Who says so.
        host: String,
        /// "manifest unknown", mostly.
        said: String,
    },
    /// It wants to know who asks, or knows and refuses.
    #[error("{host} refuses: {said}; {remedy}")]
    Denied {
        /// Who.
        host: String,
        /// In its words.
        said: String,
        /// What to do.
        remedy: &'static str,
    },
    /// It is too busy, or broken, for the moment.
    #[error("{host} answers {status}: {said}")]
    Busy {
        /// Who.
        host: String,
        /// Of HTTP.
        status: u16,
        /// In its words.
        said: String,
        /// When to ask again, where it said.
        after: Option<Duration>,
    },
    /// No connection, or one that broke.
    #[error("{host}: {said}")]
    Broken {
        /// Who.
        host: String,
        /// What was seen.
        said: String,
    },
    /// Its certificate cannot be trusted.
    #[error(
        "{host}: {said}; name the authority that signed its certificate in --registry-ca, \
         or name the host in --insecure-registry"
    )]
    Untrusted {
        /// Who.
        host: String,
        /// What is wrong with it.
        said: String,
    },
    /// It answers what makes no sense.
    #[error("{host} {said}")]
    Nonsense {
        /// Who.
        host: String,
        /// What, as a verb: "sends a manifest of 10 MB; ...".
        said: String,
    },
}

impl RegistryError {
    /// Whether the same request may well succeed in a moment.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Broken { .. })
    }

    /// How long to wait at least, where it said so.
    pub(crate) fn after(&self) -> Option<Duration> {
        match self {
            Self::Busy { after, .. } => *after,
            _ => None,
        }
    }

    /// What reqwest saw.
    pub(super) fn of_transport(host: &str, error: &reqwest::Error) -> Self {
        let host = host.to_owned();
        let said = chain(&error.without_address());
        // rustls's words: there is no type to be had through two layers of others.
        if said.contains("certificate") {
            return Self::Untrusted { host, said };
        }
        let said = if error.is_connect() { format!("no connection: {said}") } else { said };
        Self::Broken { host, said }
    }
}

/// An address may hold a token.
trait WithoutAddress {
    fn without_address(&self) -> Shown<'_>;
}

impl WithoutAddress for reqwest::Error {
    fn without_address(&self) -> Shown<'_> {
        Shown(self)
    }
}

/// A request's error without the address that it was for.
#[derive(Debug)]
struct Shown<'a>(&'a reqwest::Error);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_timeout() {
            "no answer in time"
        } else if self.0.is_connect() {
            "connecting failed"
        } else if self.0.is_body() || self.0.is_decode() {
            "the connection broke"
        } else {
            "the request failed"
        })
    }
}

impl std::error::Error for Shown<'_> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(self.0)
    }
}
