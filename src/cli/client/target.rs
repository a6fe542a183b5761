//! Where a server is, as people write it.

use crate::net::secure::Credentials;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

const DEFAULT_HOST: &str = "127.0.0.1";
const DEFAULT_PORT: u16 = 7777;

/// Where a server listens: `host:port`, `tcp://host:port`, `http://host:port`, `https://host:port`,
/// `unix:///path` or the path alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// TCP.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
    },
    /// TCP with TLS.
    Tls {
        /// A name or an address, which the server's certificate has to name.
        host: String,
        /// The port.
        port: u16,
        /// What is shown to the server, and whom it is believed by.
        credentials: Arc<Credentials>,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// Why a target cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{given}' {why}; say host:port, https://host:port or unix:///path")]
pub struct TargetError {
    given: String,
    why: &'static str,
}

impl Default for Target {
    fn default() -> Self {
        Self::Tcp { host: DEFAULT_HOST.to_owned(), port: DEFAULT_PORT }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(given: &str) -> Result<Self, TargetError> {
        let refuse = |why| TargetError { given: given.to_owned(), why };
        let text = given.trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(refuse("names a unix socket by a path that does not begin with /"))
            };
        }
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        let (secured, rest) = match text.split_once("://") {
            Some(("tcp" | "http", rest)) => (false, rest),
            Some(("tls" | "https", rest)) => (true, rest),
            Some(_) => return Err(refuse("begins with a scheme that is not known")),
            None => (false, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(refuse("holds more than a host and a port"));
        }
        let (host, port) = split_port(rest).ok_or_else(|| refuse("is not a host and a port"))?;
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(|| refuse("has no valid port"))?,
            None => DEFAULT_PORT,
        };
        let host = if host.is_empty() { DEFAULT_HOST } else { host }.to_owned();
        Ok(match secured {
            true => Self::Tls { host, port, credentials: Arc::default() },
            false => Self::Tcp { host, port },
        })
    }
}

impl Target {
    /// The same place, with these credentials where TLS is spoken.
    #[must_use]
    pub fn with(self, credentials: Credentials) -> Self {
        match self {
            Self::Tls { host, port, .. } => Self::Tls { host, port, credentials: Arc::new(credentials) },
            other => other,
        }
    }
}

/// Splits `host`, `host:port`, `[v6]`, `[v6]:port`.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (host, after) = bracketed.split_once(']')?;
        return match after {
            "" => Some((host, None)),
            _ => Some((host, Some(after.strip_prefix(':')?))),
        };
    }
    match text.split_once(':') {
        // An IPv6 address without its brackets: where it ends and a port begins cannot be told.
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
        None => Some((text, None)),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Tls { host, port, .. } if host.contains(':') => write!(f, "https://[{host}]:{port}"),
            Self::Tls { host, port, .. } => write!(f, "https://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Target {
        Target::Tcp { host: host.to_owned(), port }
    }

    fn tls(host: &str, port: u16) -> Target {
        Target::Tls { host: host.to_owned(), port, credentials: Arc::default() }
    }

    #[test]
    fn every_way_to_write_a_target_is_understood() {
        for (text, target) in [
            ("", Target::default()),
            ("10.1.2.3:99", tcp("10.1.2.3", 99)),
            ("worker", tcp("worker", 7777)),
            (":99", tcp("127.0.0.1", 99)),
            ("http://worker:99/", tcp("worker", 99)),
            ("tcp://worker", tcp("worker", 7777)),
            ("[::1]:99", tcp("::1", 99)),
            ("tcp://[::1]", tcp("::1", 7777)),
            ("https://worker", tls("worker", 7777)),
            ("tls://[::1]:99", tls("::1", 99)),
            ("unix:///run/gardend.sock", Target::Unix("/run/gardend.sock".into())),
            ("unix:/run/gardend.sock", Target::Unix("/run/gardend.sock".into())),
            ("/run/gardend.sock", Target::Unix("/run/gardend.sock".into())),
        ] {
            assert_eq!(text.parse::<Target>().unwrap(), target, "{text}");
            assert_eq!(target.to_string().parse::<Target>().unwrap(), target, "{text}");
        }
    }

    #[test]
    fn what_is_no_target_is_refused_with_the_reason() {
        for (text, why) in [
            ("ftp://worker", "scheme"),
            ("worker:0", "port"),
            ("worker:http", "port"),
            ("worker:99/path", "more than"),
            ("user@worker:99", "more than"),
            ("::1", "not a host"),
            ("unix://run/x", "begin with /"),
        ] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(error.ends_with("say host:port, https://host:port or unix:///path"), "{error}");
        }
    }
}
