//! Secrets that a declaration names, read when a container or a process of it is made: a secret that
//! changes later changes nothing that runs. What was read is in memory alone until the controller
//! has it, and in no message.

use super::problem::{Failure, Problem};
use crate::docker_config::DockerConfig;
use crate::kube::client::{Trouble, ask};
use gardend_controller::record::{ImageCredentials, ImageLocation, ImageReference};
use gardend_crds::{EnvVar, GardenContainerSpec};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use std::collections::{BTreeMap, BTreeSet};

/// Where passwords for registries are in a secret of the type kubernetes.io/dockerconfigjson.
const DOCKER_CONFIG: &str = ".dockerconfigjson";

/// Those that were read, by name.
#[derive(Default)]
pub(super) struct Secrets(BTreeMap<String, Secret>);

impl Secrets {
    /// Reads these.
    pub(super) async fn read(api: &Api<Secret>, names: BTreeSet<String>) -> Result<Self, Failure> {
        let mut read = Self::default();
        for name in names {
            let secret = get(api, &name).await?;
            read.0.insert(name, secret);
        }
        Ok(read)
    }

    /// `K=V` of a variable.
    pub(super) fn variable(&self, variable: &EnvVar) -> Result<String, Problem> {
        let name = &variable.name;
        let Some(from) = variable.value_from.as_ref().map(|from| &from.secret_key_ref) else {
            return Ok(format!("{name}={}", variable.value.as_deref().unwrap_or_default()));
        };
        let missing =
            || missing(format!("secret '{}' has no key '{}', which variable {name} is from", from.name, from.key));
        let value =
            self.0.get(&from.name).and_then(|secret| secret.data.as_ref()?.get(&from.key)).ok_or_else(missing)?;
        let text = std::str::from_utf8(&value.0).ok().filter(|text| !text.contains('\0'));
        let text = text.ok_or_else(|| Problem {
            reason: "SecretUnusable",
            message: format!("key '{}' of secret '{}' is no text that a variable can hold", from.key, from.name),
        })?;
        Ok(format!("{name}={text}"))
    }
}

/// The secrets that variables name.
pub(super) fn named(env: &[EnvVar]) -> impl Iterator<Item = String> {
    env.iter().filter_map(|variable| Some(variable.value_from.as_ref()?.secret_key_ref.name.clone()))
}

/// The password for the image's registry, where one of the secrets has one.
pub(super) async fn credentials(
    api: &Api<Secret>,
    spec: &GardenContainerSpec,
    image: Option<&ImageReference>,
) -> Result<Option<ImageCredentials>, Failure> {
    let Some(ImageLocation::Registry { host, .. }) = image.map(ImageReference::location) else { return Ok(None) };
    for named in &spec.image_pull_secrets {
        let secret = get(api, &named.name).await?;
        let content = secret.data.as_ref().and_then(|data| data.get(DOCKER_CONFIG));
        let content =
            content.ok_or_else(|| missing(format!("secret '{}' has no key '{DOCKER_CONFIG}'", named.name)))?;
        let config = DockerConfig::parse(&content.0).map_err(|said| Problem {
            reason: "SecretUnusable",
            message: format!("secret '{}': {DOCKER_CONFIG} {said}", named.name),
        })?;
        if let Some(found) = config.of(host) {
            return Ok(Some(found.clone()));
        }
    }
    Ok(None)
}

fn missing(message: String) -> Problem {
    Problem { reason: "SecretMissing", message }
}

async fn get(api: &Api<Secret>, name: &str) -> Result<Secret, Failure> {
    match ask(api.get(name)).await {
        Ok(secret) => Ok(secret),
        Err(Trouble::NotFound(_)) => Err(missing(format!("there is no secret '{name}' in this namespace")).into()),
        Err(Trouble::Refused(why)) => {
            Err(Problem { reason: "SecretUnusable", message: format!("secret '{name}' cannot be read: {why}") }.into())
        }
        Err(trouble) => Err(trouble.into()),
    }
}
