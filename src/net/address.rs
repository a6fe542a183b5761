//! Where a server listens, as people write it.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// The kernel's limit for a unix socket's path (`sun_path`, with its end).
const LONGEST_PATH: usize = 107;

/// Where a server listens: a loopback address with a port, any address by TLS, or a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP; for Garden's clients on loopback alone: whoever reaches gardend is root on the machine.
    Tcp(SocketAddr),
    /// TCP with TLS, on any address: clients prove who they are.
    Tls(SocketAddr),
    /// A unix socket. Absolute.
    Unix(PathBuf),
}

/// Why a server cannot be told to listen there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither an address nor a path.
    #[error(
        "neither an address and a port nor a unix socket; say 127.0.0.1:7777, [::1]:7777, tls://0.0.0.0:7777 \
         or unix:///run/gardend/garden.sock"
    )]
    NoAddress,
    /// Others could connect.
    #[error(
        "{0} can be reached from other machines, and whoever reaches gardend is root on this one; \
         listen on 127.0.0.1, [::1] or a unix socket, or say tls://ADDR:PORT and have clients prove who they are \
         (--tls-cert, --tls-key, and --tls-client-ca, --token-file or --token-review)"
    )]
    Open(std::net::IpAddr),
    /// A unix socket's path that does not say where it is.
    #[error(
        "a unix socket is named by a path that must begin with / and hold no `..`, as in unix:///run/gardend/garden.sock"
    )]
    Relative,
    /// A unix socket's path that the kernel does not take.
    #[error("the path of a unix socket has {LONGEST_PATH} bytes at most; this one has {0}")]
    TooLong(usize),
}

impl Address {
    /// One that other machines may reach too: for what tells figures and takes no orders.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open_to_others(text: &str) -> Result<Self, AddressError> {
        match text.parse::<SocketAddr>() {
            Ok(address) => Ok(Self::Tcp(address)),
            Err(_) => text.parse(),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(Path::new(path.strip_prefix("//").unwrap_or(path)));
        }
        if text.starts_with('/') {
            return unix(Path::new(text));
        }
        let (secured, text) = match text.strip_prefix("tls://") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("tcp://").unwrap_or(text)),
        };
        let numeric = match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text.to_owned(),
        };
        let address: SocketAddr = numeric.parse().map_err(|_| AddressError::NoAddress)?;
        if secured {
            return Ok(Self::Tls(address));
        }
        if address.ip().is_loopback() { Ok(Self::Tcp(address)) } else { Err(AddressError::Open(address.ip())) }
    }
}

fn unix(path: &Path) -> Result<Address, AddressError> {
    let names_a_file = path.file_name().is_some() && !path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if !path.is_absolute() || !names_a_file || path.components().any(|part| part == Component::ParentDir) {
        return Err(AddressError::Relative);
    }
    match path.as_os_str().len() {
        length if length > LONGEST_PATH => Err(AddressError::TooLong(length)),
        _ => Ok(Address::Unix(path.to_owned())),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Tls(address) => write!(f, "tls://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_an_address_is_understood() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        for (text, address) in [
            ("127.0.0.1:7777", tcp("127.0.0.1:7777")),
            ("tcp://127.8.0.1:0", tcp("127.8.0.1:0")),
            ("localhost:80", tcp("127.0.0.1:80")),
            ("[::1]:7777", tcp("[::1]:7777")),
            ("tls://0.0.0.0:7777", Address::Tls("0.0.0.0:7777".parse().unwrap())),
            ("tls://localhost:7777", Address::Tls("127.0.0.1:7777".parse().unwrap())),
            ("unix:///run/g.sock", Address::Unix("/run/g.sock".into())),
            ("unix:/run/g.sock", Address::Unix("/run/g.sock".into())),
            ("/run/g.sock", Address::Unix("/run/g.sock".into())),
        ] {
            assert_eq!(text.parse(), Ok(address.clone()), "{text}");
            assert_eq!(address.to_string().parse(), Ok(address));
        }
    }

    #[test]
    fn figures_may_be_told_to_other_machines() {
        let open = |text: &str| Address::open_to_others(text).map(|address| address.to_string());
        assert_eq!(open("0.0.0.0:9100").as_deref(), Ok("0.0.0.0:9100"));
        assert_eq!(open("[::]:9100").as_deref(), Ok("[::]:9100"));
        assert_eq!(open("unix:///run/m.sock").as_deref(), Ok("unix:///run/m.sock"));
        assert_eq!(open("9100"), Err(AddressError::NoAddress));
    }

    #[test]
    fn an_address_that_others_can_reach_or_that_is_none_is_refused_with_the_reason() {
        let long = format!("unix:///{}", "x".repeat(200));
        for (text, words) in [
            ("0.0.0.0:7777", "0.0.0.0 can be reached from other machines"),
            ("[::]:7777", ":: can be reached"),
            ("10.1.2.3:7777", "can be reached"),
            ("tls://worker:7777", "say 127.0.0.1:7777"),
            ("7777", "say 127.0.0.1:7777"),
            ("", "say 127.0.0.1:7777"),
            ("unix://run/g.sock", "must begin with /"),
            ("unix:///run/../g.sock", "hold no `..`"),
            ("unix:///run/", "begin with /"),
            (&long, "107 bytes at most; this one has 201"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
