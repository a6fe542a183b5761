//! How the cluster is reached: by the caller's kubeconfig, as kubectl reads it, or from within a pod.

use super::args::Access;
use crate::cli::outcome::Failure;
use crate::words::causes;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::{Client, Error};
use std::time::Duration;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// Where nothing else says so.
const NAMESPACE: &str = "gardend";

/// The client that a kubeconfig makes, and the namespace that gardend is in.
pub(super) async fn client(access: &Access) -> Result<(Client, String), Failure> {
    let unusable = |error| Failure::Words(format!("the kubeconfig cannot be used: {}", causes(&error)));
    let file = match &access.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let file = file.map_err(unusable)?;
    let namespace = namespace(access, &file);
    let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    let mut config = Config::from_custom_kubeconfig(file, &options).await.map_err(unusable)?;
    if access.impersonate.is_some() {
        config.auth_info.impersonate.clone_from(&access.impersonate);
        config.auth_info.impersonate_groups = Some(access.impersonate_groups.clone());
    }
    Ok((with(config)?, namespace))
}

/// The client of a pod's service account.
pub(super) fn in_pod() -> Result<Client, Failure> {
    let config = Config::incluster()
        .map_err(|error| Failure::Words(format!("this is no pod with a service account: {}", causes(&error))))?;
    with(config)
}

fn with(mut config: Config) -> Result<Client, Failure> {
    config.connect_timeout = Some(CONNECT);
    // A session is silent for as long as its command is; what is asked has a deadline each.
    config.read_timeout = None;
    config.default_retry = false;
    Client::try_from(config)
        .map_err(|error| Failure::Words(format!("no client for the API server can be made: {}", causes(&error))))
}

fn namespace(access: &Access, file: &Kubeconfig) -> String {
    let context = access.context.as_ref().or(file.current_context.as_ref());
    let context = file.contexts.iter().find(|one| Some(&one.name) == context);
    let of_context = context.and_then(|one| one.context.as_ref()).and_then(|one| one.namespace.clone());
    access.namespace.clone().or(of_context.filter(|name| !name.is_empty())).unwrap_or_else(|| NAMESPACE.to_owned())
}

/// Why the API server did not answer as asked, in words.
pub(super) fn words(error: &Error) -> String {
    match error {
        Error::Api(status) => format!("the API server refuses: {} (status {})", status.message, status.code),
        error => format!("cannot reach the API server: {}", causes(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_is_what_is_said_or_the_context_s_or_gardend() {
        let file = Kubeconfig::from_yaml(
            r#"{"current-context": "a", "contexts": [
                {"name": "a", "context": {"cluster": "c", "namespace": "of-a"}},
                {"name": "b", "context": {"cluster": "c"}}]}"#,
        )
        .unwrap();
        let access = |namespace: Option<&str>, context: Option<&str>| Access {
            namespace: namespace.map(str::to_owned),
            context: context.map(str::to_owned),
            ..Access::default()
        };
        assert_eq!(namespace(&access(None, None), &file), "of-a");
        assert_eq!(namespace(&access(None, Some("b")), &file), "gardend");
        assert_eq!(namespace(&access(Some("x"), Some("a")), &file), "x");
    }
}
