//! containerd's namespaces service: ours is made where it is missing, and removed by who does not come back.

use super::connection::{Connection, QUICK};
use super::error::{CallError, CallErrorKind};
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::{CreateNamespaceRequest, DeleteNamespaceRequest, Namespace};

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

    /// Removes the namespace where nothing is in it; whether it is gone.
    pub(crate) async fn remove_empty_namespace(&self, name: &str) -> Result<bool, CallError> {
        let mut client = NamespacesClient::new(self.channel());
        let request = self.request(DeleteNamespaceRequest { name: name.to_owned() }, QUICK);
        match self.call(QUICK, || format!("delete namespace {name}"), client.delete(request)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(true),
            Err(error) if error.kind == CallErrorKind::Precondition => Ok(false),
            Err(error) => Err(error),
        }
    }
}
