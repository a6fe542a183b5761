//! References to images, as Garden clients write them.
//!
//! ```text
//!   docker://HOST/NAME[:TAG|@DIGEST][#TAG]     a registry's
//!   docker:///NAME[:TAG|@DIGEST][#TAG]         Docker's short names: busybox is docker.io/library/busybox
//!   oci://HOST/NAME[:TAG|@DIGEST][#TAG]        a registry's, too
//!   oci-layout:///PATH[:TAG|@DIGEST][#TAG]     a folder in OCI's image layout; PATH is percent-encoded
//! ```
//! Without a tag or digest `latest` is meant; of a layout, its only image. With both, the digest
//! counts. User and password have no place in a reference: it is kept, and shown.

use super::{ImageDigest, InvalidDigest};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What Docker's names without a host belong to.
const DOCKER: &str = "docker.io";
/// Names of the same.
const ALSO_DOCKER: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];
/// The longest name of a repository that registries take.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A reference to an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference {
    written: String,
    location: ImageLocation,
    version: ImageVersion,
}

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageLocation {
    /// In a registry.
    Registry {
        /// A host, with its port where it names one.
        host: String,
        /// The repository.
        name: String,
    },
    /// In a folder of the host, absolute.
    Layout(PathBuf),
}

/// Which of the images there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageVersion {
    /// What has this name now.
    Tag(String),
    /// This one for ever.
    Digest(ImageDigest),
    /// The only one (of a layout).
    Only,
}

/// Why a text is no reference. It never shows what may be a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// No scheme that leads to images.
    #[error(
        "{0:?} is no image's scheme; write docker://HOST/NAME:TAG, docker:///NAME#TAG, oci://HOST/NAME:TAG or oci-layout:///PATH:TAG"
    )]
    Scheme(String),
    /// Not followed by two slashes.
    #[error("an image is written with two slashes after its scheme: {0}://HOST/NAME")]
    Slashes(String),
    /// A user, and perhaps a password.
    #[error("holds a user or password before the host; give them as image.username and image.password")]
    UserInfo,
    /// A query.
    #[error("an image has no query; leave out what follows the question mark")]
    Query,
    /// No host where there must be one.
    #[error("oci:// needs a host: oci://HOST/NAME; Docker's short names are written docker:///NAME")]
    NoHost,
    /// No name.
    #[error("has no image name; write {0}")]
    NoName(String),
    /// A host that cannot be.
    #[error("host {0:?} is neither a name or address nor one with a port")]
    Host(String),
    /// A name that registries do not take.
    #[error(
        "name {0:?} is not one that registries take: small letters and digits, with . _ - between them and / between parts, 255 at most"
    )]
    Name(String),
    /// A tag that registries do not take.
    #[error(
        "tag {0:?} is not one that registries take: letters, digits, . _ and -, not beginning with . or -, 128 at most"
    )]
    Tag(String),
    /// Two tags.
    #[error("has two tags, {0:?} and {1:?}; give one")]
    TwoTags(String, String),
    /// No digest.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    /// No path.
    #[error("an OCI layout is written with three slashes and an absolute path: oci-layout:///PATH:TAG")]
    LayoutPath,
    /// A path that cannot be read.
    #[error("the path of the OCI layout is not UTF-8 once percent-decoded, or holds a zero byte")]
    LayoutText,
}

impl ImageReference {
    /// Whether a text begins as a reference does, well-formed or not.
    pub fn has_scheme(text: &str) -> bool {
        text.split_once(':').is_some_and(|(scheme, _)| matches!(scheme, "docker" | "oci" | "oci-layout"))
    }

    /// Where it is.
    pub fn location(&self) -> &ImageLocation {
        &self.location
    }

    /// Which it is.
    pub fn version(&self) -> &ImageVersion {
        &self.version
    }

    /// What containerd's tools call it: `docker.io/library/busybox:1.36`.
    pub fn name(&self) -> String {
        let place = match &self.location {
            ImageLocation::Registry { host, name } => format!("{host}/{name}"),
            ImageLocation::Layout(path) => format!("oci-layout://{}", path.display()),
        };
        match &self.version {
            ImageVersion::Tag(tag) => format!("{place}:{tag}"),
            ImageVersion::Digest(digest) => format!("{place}@{digest}"),
            ImageVersion::Only => place,
        }
    }

    /// As the client wrote it.
    pub fn as_str(&self) -> &str {
        &self.written
    }
}

impl FromStr for ImageReference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let (scheme, rest) = text.split_once(':').ok_or_else(|| InvalidReference::Scheme(shown_scheme(text)))?;
        if !Self::has_scheme(text) {
            return Err(InvalidReference::Scheme(shown_scheme(scheme)));
        }
        let rest = rest.strip_prefix("//").ok_or_else(|| InvalidReference::Slashes(scheme.to_owned()))?;
        let authority = rest.split('/').next().unwrap_or_default();
        if authority.contains('@') {
            return Err(InvalidReference::UserInfo);
        }
        if rest.contains('?') {
            return Err(InvalidReference::Query);
        }
        let (rest, fragment) = match rest.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment)),
            None => (rest, None),
        };
        let (location, version) = match scheme {
            "oci-layout" => layout(rest, fragment)?,
            _ => registry(scheme, rest, fragment)?,
        };
        Ok(Self { written: text.to_owned(), location, version })
    }
}

/// Text that is no reference at all may hold anything.
fn shown_scheme(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')).take(32).collect()
}

fn registry(
    scheme: &str,
    rest: &str,
    fragment: Option<&str>,
) -> Result<(ImageLocation, ImageVersion), InvalidReference> {
    let no_name = || InvalidReference::NoName(format!("{scheme}://HOST/NAME, or docker:///NAME for one of Docker's"));
    let (host, path) = rest.split_once('/').ok_or_else(no_name)?;
    let (path, version) = versioned(path, fragment)?;
    if path.is_empty() {
        return Err(no_name());
    }
    let (host, name) = match host {
        "" if scheme == "oci" => return Err(InvalidReference::NoHost),
        "" => short_name(path),
        host => (host, path),
    };
    check_host(host)?;
    let docker = host == DOCKER || ALSO_DOCKER.contains(&host);
    let (host, name) = match name.contains('/') {
        false if docker => (DOCKER, format!("library/{name}")),
        _ if docker => (DOCKER, name.to_owned()),
        _ => (host, name.to_owned()),
    };
    if name.len() > MAX_NAME || !name.split('/').all(is_name_part) {
        return Err(InvalidReference::Name(name));
    }
    let location = ImageLocation::Registry { host: host.to_owned(), name };
    Ok((location, version.unwrap_or_else(|| ImageVersion::Tag("latest".into()))))
}

/// Docker's rule for a name without a host: a first part that cannot be a user's is a host after all.
fn short_name(path: &str) -> (&str, &str) {
    match path.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (DOCKER, path),
    }
}

fn layout(rest: &str, fragment: Option<&str>) -> Result<(ImageLocation, ImageVersion), InvalidReference> {
    let (path, version) = versioned(rest, fragment)?;
    let path = percent_encoding::percent_decode_str(path).decode_utf8();
    let path = path.ok().filter(|path| !path.contains('\0')).ok_or(InvalidReference::LayoutText)?;
    if !path.starts_with('/') || Path::new(&*path).components().count() < 2 {
        return Err(InvalidReference::LayoutPath);
    }
    Ok((ImageLocation::Layout(PathBuf::from(path.into_owned())), version.unwrap_or(ImageVersion::Only)))
}

/// Takes tag and digest off the end of a name or path.
fn versioned<'a>(path: &'a str, fragment: Option<&str>) -> Result<(&'a str, Option<ImageVersion>), InvalidReference> {
    let (path, digest) = match path.rsplit_once('@') {
        Some((path, digest)) => (path, Some(ImageDigest::new(digest)?)),
        None => (path, None),
    };
    let last = path.rfind('/').map_or(0, |slash| slash + 1);
    let (path, tag) = match path[last..].rfind(':') {
        Some(colon) => (&path[..last + colon], Some(&path[last + colon + 1..])),
        None => (path, None),
    };
    let tag = match (tag, fragment) {
        (Some(tag), Some(fragment)) => return Err(InvalidReference::TwoTags(tag.into(), fragment.into())),
        (tag, fragment) => tag.or(fragment),
    };
    if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
        return Err(InvalidReference::Tag(tag.to_owned()));
    }
    let tag = tag.map(|tag| ImageVersion::Tag(tag.to_owned()));
    Ok((path, digest.map(ImageVersion::Digest).or(tag)))
}

fn check_host(host: &str) -> Result<(), InvalidReference> {
    let wrong = || InvalidReference::Host(host.to_owned());
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or_else(wrong)?;
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(wrong());
            }
            ("", port)
        }
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let named = host.starts_with('[')
        || (!name.is_empty()
            && name.len() <= 253
            && name.split('.').all(|part| {
                let fits = !part.is_empty() && !part.starts_with('-') && !part.ends_with('-');
                fits && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            }));
    let port =
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if named && port { Ok(()) } else { Err(wrong()) }
}

/// OCI's grammar: runs of small letters and digits with `.`, `_`, `__` or any number of `-` between.
fn is_name_part(part: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let outer = part.starts_with(alphanumeric) && part.ends_with(alphanumeric);
    let separators = part.split(alphanumeric).filter(|between| !between.is_empty());
    let between = |text: &str| matches!(text, "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    outer && separators.into_iter().all(between)
}

fn is_tag(tag: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let first = tag.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    first && tag.len() <= MAX_TAG && tag.bytes().all(inner)
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl TryFrom<String> for ImageReference {
    type Error = InvalidReference;
    fn try_from(text: String) -> Result<Self, InvalidReference> {
        text.parse()
    }
}

impl From<ImageReference> for String {
    fn from(reference: ImageReference) -> String {
        reference.written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> String {
        text.parse::<ImageReference>().unwrap_or_else(|error| panic!("{text}: {error}")).name()
    }

    #[test]
    fn references_mean_what_docker_and_garden_mean_by_them() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (text, expected) in [
            ("docker:///busybox", "docker.io/library/busybox:latest"),
            ("docker:///busybox#1.36", "docker.io/library/busybox:1.36"),
            ("docker:///busybox:1.36", "docker.io/library/busybox:1.36"),
            ("docker:///cloudfoundry/grootfs-test#v1", "docker.io/cloudfoundry/grootfs-test:v1"),
            ("docker:///quay.io/some/thing", "quay.io/some/thing:latest"),
            ("docker:///localhost/thing", "localhost/thing:latest"),
            ("docker://docker.io/busybox", "docker.io/library/busybox:latest"),
            ("docker://registry-1.docker.io/library/busybox", "docker.io/library/busybox:latest"),
            ("docker://127.0.0.1:5000/a/b/c:x_1.0-rc", "127.0.0.1:5000/a/b/c:x_1.0-rc"),
            ("docker://127.0.0.1:5000/a#x", "127.0.0.1:5000/a:x"),
            ("oci://[::1]:5000/a", "[::1]:5000/a:latest"),
            ("oci://Registry.example/a-b__c.d/e---f", "Registry.example/a-b__c.d/e---f:latest"),
            ("oci-layout:///var/images/busybox", "oci-layout:///var/images/busybox"),
            ("oci-layout:///var/im%20ages/b:1", "oci-layout:///var/im ages/b:1"),
            ("oci-layout:///var/images/b#1", "oci-layout:///var/images/b:1"),
        ] {
            assert_eq!(name(text), expected, "{text}");
        }
        assert_eq!(name(&format!("docker:///busybox@{digest}")), format!("docker.io/library/busybox@{digest}"));
        assert_eq!(name(&format!("oci://h:1/a:tag@{digest}")), format!("h:1/a@{digest}"));
        assert_eq!(name(&format!("oci-layout:///a/b@{digest}")), format!("oci-layout:///a/b@{digest}"));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_part() {
        for (text, words) in [
            ("docker:/x", "two slashes"),
            ("docker://busybox", "no image name"),
            ("docker:///", "no image name"),
            ("docker://host/", "no image name"),
            ("docker://host/:tag", "no image name"),
            ("oci:///x", "needs a host"),
            ("docker://ho st/x", "host \"ho st\""),
            ("docker://host:0/x", "host \"host:0\""),
            ("docker://host:99999/x", "host \"host:99999\""),
            ("docker://[::z]/x", "host \"[::z]\""),
            ("docker:///Busybox", "name \"library/Busybox\""),
            ("docker://h/a//b", "name \"a//b\""),
            ("docker://h/../b", "name \"../b\""),
            ("docker://h/a_-b", "name \"a_-b\""),
            ("docker:///busybox:", "tag \"\""),
            ("docker:///busybox#.x", "tag \".x\""),
            ("docker:///busybox:1#2", "two tags, \"1\" and \"2\""),
            ("docker:///busybox@sha512:00", "not by sha256"),
            ("docker:///busybox?x=y", "no query"),
            ("oci-layout://x", "three slashes"),
            ("oci-layout:///", "three slashes"),
            ("oci-layout:///%ff", "UTF-8"),
            ("gopher://x/y", "\"gopher\" is no image's scheme"),
            ("busybox", "no image's scheme"),
        ] {
            let error = text.parse::<ImageReference>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_in_a_reference_is_refused_and_not_repeated() {
        let error = "docker://alice:hunter2@host/x".parse::<ImageReference>().unwrap_err();
        assert_eq!(error, InvalidReference::UserInfo);
        assert!(!error.to_string().contains("hunter2"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_is_read_is_read_again(text in "(docker|oci|oci-layout)://[a-z/:@#.0-9\\[\\]%]{0,24}") {
            if let Ok(reference) = text.parse::<ImageReference>() {
                let json = serde_json::to_string(&reference).unwrap();
                prop_assert_eq!(serde_json::from_str::<ImageReference>(&json).unwrap(), reference);
            }
        }
    }
}
