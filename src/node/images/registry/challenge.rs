//! What a registry wants to see of whoever asks (`WWW-Authenticate`), read.

use std::collections::BTreeMap;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token of another server's.
    Bearer {
        /// That server.
        realm: String,
        /// For whom the token is.
        service: Option<String>,
        /// What for, where the registry says so itself.
        scope: Option<String>,
    },
    /// User and password.
    Basic,
}

impl Challenge {
    /// The first that can be met in the headers of an answer; tokens before passwords.
    pub(super) fn read<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for (scheme, parameters) in headers.flat_map(schemes) {
            match scheme.to_ascii_lowercase().as_str() {
                "bearer" => {
                    let take = |name: &str| parameters.get(name).cloned();
                    if let Some(realm) = take("realm") {
                        return Some(Self::Bearer { realm, service: take("service"), scope: take("scope") });
                    }
                }
                "basic" => basic = Some(Self::Basic),
                _ => {}
            }
        }
        basic
    }
}

/// The schemes in one header, which may hold several, each with its parameters.
fn schemes(header: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        if end == 0 {
            return found;
        }
        let word = &rest[..end];
        let after = rest[end..].trim_start_matches([' ', '\t']);
        let Some(value) = after.strip_prefix('=') else {
            found.push((word.to_owned(), BTreeMap::new()));
            rest = after;
            continue;
        };
        let (value, after) = value_of(value.trim_start());
        if let Some((_, parameters)) = found.last_mut() {
            parameters.insert(word.to_ascii_lowercase(), value);
        }
        rest = after;
    }
}

/// A token or a quoted text, and what follows it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(header: &str) -> Option<Challenge> {
        Challenge::read(std::iter::once(header))
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let docker = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        };
        let expected =
            bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:a/b:pull,push"));
        assert_eq!(read(docker), Some(expected));
        assert_eq!(read("Basic realm=\"x, y\""), Some(Challenge::Basic));
        assert_eq!(read("basic"), Some(Challenge::Basic));
        assert_eq!(read("Basic realm=x, BEARER Realm = \"h://t\""), Some(bearer("h://t", None, None)));
        assert_eq!(read("Negotiate, Digest realm=x"), None);
        assert_eq!(read("Bearer realm=\"unfinished"), Some(bearer("unfinished", None, None)));
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic_or_go_on_for_ever(header in ".{0,80}") {
            drop(read(&header));
        }
    }
}
