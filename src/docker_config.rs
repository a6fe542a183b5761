//! A docker configuration file: passwords for registries, written by `docker login`, or by hand. The
//! server has one for its pulls, and the command line one of whoever calls it.
//!
//! It is read anew for each pull, so that a password can be changed at any time. Helpers, which
//! are programs to be run, are refused by their names.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gardend_controller::record::ImageCredentials;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// The name of Docker's registry.
pub(crate) const DOCKER: &str = "docker.io";

/// Whether two names are one registry's.
pub(crate) fn same_registry(one: &str, other: &str) -> bool {
    let plain = |host: &str| match host {
        "index.docker.io" | "registry-1.docker.io" => DOCKER.to_owned(),
        host => host.to_ascii_lowercase(),
    };
    plain(one) == plain(other)
}

/// Passwords by registry.
pub(crate) struct DockerConfig(BTreeMap<String, ImageCredentials>);

impl DockerConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it, in words, and never what stands in it.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let wrong = |said: String| format!("--registry-config {}: {said}", path.display());
        let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        Self::parse(&text).map_err(wrong)
    }

    /// The same of what stands in one.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            format!("is no docker configuration: wrong at line {line}, column {column}")
        })?;
        if let Some(helper) = file.creds_store.filter(|helper| !helper.is_empty()) {
            return Err(refused_helper("credsStore", &helper));
        }
        if let Some((host, helper)) = file.cred_helpers.iter().next() {
            return Err(refused_helper(&format!("credHelpers for {host}"), helper));
        }
        let mut known = BTreeMap::new();
        for (registry, entry) in file.auths {
            if let Some(credentials) = entry.credentials(&registry)? {
                known.insert(host_of(&registry).to_owned(), credentials);
            }
        }
        Ok(Self(known))
    }

    /// For the registry of this name.
    pub(crate) fn of(&self, host: &str) -> Option<&ImageCredentials> {
        self.0.iter().find(|(known, _)| same_registry(known, host)).map(|(_, credentials)| credentials)
    }
}

fn refused_helper(where_from: &str, helper: &str) -> String {
    format!(
        "names the credential helper {helper:?} ({where_from}), and gardend runs none; \
         write the registries' user names and passwords into auths"
    )
}

/// Docker writes hosts, and addresses such as `https://index.docker.io/v1/`.
fn host_of(registry: &str) -> &str {
    let rest = registry.strip_prefix("https://").or_else(|| registry.strip_prefix("http://")).unwrap_or(registry);
    rest.split('/').next().unwrap_or(rest)
}

impl Entry {
    fn credentials(self, registry: &str) -> Result<Option<ImageCredentials>, String> {
        let set = |value: &Option<String>| value.as_ref().is_some_and(|value| !value.is_empty());
        for (name, value) in [("identitytoken", &self.identitytoken), ("registrytoken", &self.registrytoken)] {
            if set(value) {
                return Err(format!(
                    "auths for {registry} has an {name}, which gardend does not use; give username and password"
                ));
            }
        }
        if let Some(auth) = self.auth.filter(|auth| !auth.is_empty()) {
            let wrong = || format!("auth of auths for {registry} is not USER:PASSWORD in base64");
            let decoded = STANDARD.decode(auth.trim()).map_err(|_| wrong())?;
            let decoded = String::from_utf8(decoded).map_err(|_| wrong())?;
            let (username, password) = decoded.split_once(':').ok_or_else(wrong)?;
            let password = password.trim_end_matches('\0');
            return Ok(Some(ImageCredentials { username: username.into(), password: password.into() }));
        }
        Ok(match (self.username, self.password) {
            (Some(username), Some(password)) => Some(ImageCredentials { username, password }),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DockerConfig, String> {
        DockerConfig::parse(text.as_bytes())
    }

    #[test]
    fn passwords_are_found_by_host_however_docker_wrote_it() {
        let config = parse(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YWxpY2U6aHVudGVyOjI="},
            "registry.example:5000":{"username":"bob","password":"x"},"empty.example":{}},"HttpHeaders":{"A":"b"}}"#,
        )
        .unwrap();
        let found = |host: &str| config.of(host).map(|found| (found.username.as_str(), found.password.as_str()));
        assert_eq!(found("docker.io"), Some(("alice", "hunter:2")));
        assert_eq!(found("registry.example:5000"), Some(("bob", "x")));
        assert_eq!((found("empty.example"), found("registry.example")), (None, None));
    }

    #[test]
    fn what_gardend_would_have_to_run_or_cannot_read_is_refused_by_its_name() {
        for (text, words) in [
            (r#"{"credsStore":"desktop"}"#, "\"desktop\" (credsStore)"),
            (r#"{"credHelpers":{"gcr.io":"gcloud"}}"#, "\"gcloud\" (credHelpers for gcr.io)"),
            (r#"{"auths":{"x":{"identitytoken":"s3cret"}}}"#, "identitytoken"),
            (r#"{"auths":{"x":{"auth":"s3cret!"}}}"#, "auths for x is not USER:PASSWORD"),
            (r#"{"auths":"s3cret"}"#, "line 1"),
        ] {
            let error = parse(text).err().unwrap();
            assert!(error.contains(words) && !error.contains("s3cret"), "{error}");
        }
    }
}
