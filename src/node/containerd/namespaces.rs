//! containerd's namespaces service: ours is made where it is missing.

use super::connection::{Connection, QUICK};
use super::error::{CallError, CallErrorKind};
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::{CreateNamespaceRequest, Namespace};

impl Connection {
    /// Makes the namespace. One that is there is left as it is.
    pub(crate) async fn ensure_namespace(&self, name: &str) -> Result<(), CallError> {
        let mut client = NamespacesClient::new(self.channel());
        let namespace = Namespace { name: name.to_owned(), ..Namespace::default() };
        let request = self.request(CreateNamespaceRequest { namespace: Some(namespace) }, QUICK);
        match self.call(QUICK, || format!("create namespace {name}"), client.create(request)).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == CallErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }
}
