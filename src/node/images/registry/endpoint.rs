//! Where a registry's requests go: its own address, and mirrors of it.

use crate::docker_config::{DOCKER, same_registry};
use std::fmt;
use std::str::FromStr;

/// The address of Docker's registry, which is not its name.
const DOCKER_AT: &str = "registry-1.docker.io";

/// How an address is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Security {
    /// https, its certificate verified.
    Verified,
    /// https, whatever its certificate.
    Unverified,
    /// http.
    Plain,
}

/// One address that requests of a registry may go to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Endpoint {
    pub(super) security: Security,
    /// Host, and port where it is not the usual one.
    pub(super) authority: String,
    /// Before `/v2/`; empty, or beginning with a slash and not ending with one.
    pub(super) path: String,
}

impl Endpoint {
    /// The addresses of a registry itself, the better first.
    pub(super) fn of(host: &str, insecure: &[String]) -> Vec<Self> {
        let authority = if same_registry(host, DOCKER) { DOCKER_AT } else { host };
        let at = |security| Self { security, authority: authority.to_owned(), path: String::new() };
        if insecure.iter().any(|name| same_registry(name, host)) {
            // Whether it speaks TLS is found out by trying.
            return vec![at(Security::Unverified), at(Security::Plain)];
        }
        vec![at(Security::Verified)]
    }

    /// An address below this one.
    pub(super) fn url(&self, path: &str) -> String {
        let scheme = if self.security == Security::Plain { "http" } else { "https" };
        format!("{scheme}://{}{}{path}", self.authority, self.path)
    }
}

/// An address that is asked in a registry's place, and the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Whose.
    host: String,
    endpoint: Endpoint,
}

impl Mirror {
    /// As it is asked, where it is one of this registry's.
    pub(super) fn endpoint_for(&self, host: &str, insecure: &[String]) -> Option<Endpoint> {
        let mut endpoint = self.endpoint.clone();
        let trusted = !insecure.iter().any(|name| same_registry(name, &endpoint.authority));
        if endpoint.security == Security::Verified && !trusted {
            endpoint.security = Security::Unverified;
        }
        same_registry(&self.host, host).then_some(endpoint)
    }
}

impl FromStr for Mirror {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |said: &str| format!("{said}; say docker.io=https://mirror.example");
        let (host, url) = text.split_once('=').ok_or_else(|| wrong("not a registry and an address"))?;
        if host.is_empty() || host.contains('/') {
            return Err(wrong("what stands before the = is no registry's name"));
        }
        let (security, rest) = match url.split_once("://") {
            Some(("https", rest)) => (Security::Verified, rest),
            Some(("http", rest)) => (Security::Plain, rest),
            _ => return Err(wrong("the address begins with neither https:// nor http://")),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.is_empty() || authority.contains(['@', ' ']) {
            return Err(wrong("the address has no host, or a user in it (--registry-config is for passwords)"));
        }
        if path.contains(['?', '#', ' ']) {
            return Err(wrong("the address has more than a path"));
        }
        let endpoint = Endpoint { security, authority: authority.into(), path: path.trim_end_matches('/').into() };
        Ok(Self { host: host.to_owned(), endpoint })
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.host, self.endpoint.url(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(host: &str, insecure: &[&str]) -> Vec<String> {
        let insecure: Vec<String> = insecure.iter().map(ToString::to_string).collect();
        Endpoint::of(host, &insecure).iter().map(|endpoint| endpoint.url("/v2/")).collect()
    }

    #[test]
    fn a_registry_is_asked_at_its_own_address_by_https_unless_it_is_called_insecure() {
        assert_eq!(urls("docker.io", &[]), ["https://registry-1.docker.io/v2/"]);
        assert_eq!(urls("r.example:5000", &["other"]), ["https://r.example:5000/v2/"]);
        let both = ["https://127.0.0.1:5000/v2/", "http://127.0.0.1:5000/v2/"];
        assert_eq!(urls("127.0.0.1:5000", &["127.0.0.1:5000"]), both);
    }

    #[test]
    fn a_mirror_is_a_registry_and_an_address() {
        let mirror: Mirror = "docker.io=https://mirror.example/hub/".parse().unwrap();
        assert_eq!(mirror.endpoint_for("docker.io", &[]).unwrap().url("/v2/x"), "https://mirror.example/hub/v2/x");
        assert_eq!(mirror.endpoint_for("quay.io", &[]), None);
        let insecure = ["mirror.example".to_owned()];
        assert_eq!(mirror.endpoint_for("docker.io", &insecure).unwrap().security, Security::Unverified);
        assert_eq!(mirror.to_string().parse::<Mirror>().unwrap(), mirror);
        for (text, words) in [
            ("https://mirror=https://x", "no registry's name"),
            ("mirror", "not a registry and an address"),
            ("docker.io=mirror", "neither https:// nor http://"),
            ("docker.io=https://", "no host"),
            ("docker.io=https://a:b@c", "user"),
            ("docker.io=https://c/?x", "more than a path"),
        ] {
            let error = text.parse::<Mirror>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
