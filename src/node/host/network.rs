//! The network of a node whose containers are in its own: there is nothing to make.
//!
//! A port is the machine's, whoever listens on it; ports are only given to one container at a time.
//! Rules out are taken and change nothing.

use async_trait::async_trait;
use gardend_controller::ports::{Network, NetworkWanted, NodeError, NodeErrorKind, WantedNow};
use gardend_controller::record::{ContainerUid, RuleOut, SandboxId};
use gardend_controller::{AddressSource, NetworkOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use tokio::sync::mpsc;

/// See the module.
#[derive(Clone, Debug)]
pub struct HostNetwork {
    ports: RangeInclusive<u16>,
}

impl HostNetwork {
    /// Containers that name no port are given one of `ports`.
    pub fn new(ports: RangeInclusive<u16>) -> Self {
        Self { ports }
    }

    /// Where containers are.
    pub fn options(&self) -> NetworkOptions {
        let here = Ipv4Addr::LOCALHOST;
        let (addresses, external) = (AddressSource::Shared(here), Some(here.into()));
        NetworkOptions { addresses, ports: self.ports.clone(), external }
    }
}

#[async_trait]
impl Network for HostNetwork {
    async fn check_rules(&self, rules: &[RuleOut]) -> Result<(), NodeError> {
        if !rules.is_empty() {
            tracing::warn!(rules = rules.len(), "rules out are not enforced (--backend host)");
        }
        Ok(())
    }

    /// Who names a port may listen on it already. One of those that are given out must be free.
    async fn check_port(&self, port: u16) -> Result<(), NodeError> {
        if !self.ports.contains(&port) {
            return Ok(());
        }
        match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
            Ok(_) => Ok(()),
            Err(error) => {
                let message = format!("port {port} of this machine cannot be listened on: {error}; ask for another");
                Err(NodeError::new(NodeErrorKind::Invalid, message))
            }
        }
    }

    async fn ensure(&self, wanted: WantedNow<'_, Option<NetworkWanted>>) -> Result<(), NodeError> {
        match wanted() {
            Some(_) => Ok(()),
            None => Err(NodeError::new(NodeErrorKind::NotFound, "its network is not wanted any more")),
        }
    }

    async fn release(&self, _container: &ContainerUid) -> Result<(), NodeError> {
        Ok(())
    }

    async fn restore(&self, _wanted: WantedNow<'_, Vec<NetworkWanted>>) -> Result<(), NodeError> {
        Ok(())
    }

    async fn bandwidth(&self, _sandbox: &SandboxId) -> Result<(u64, u64), NodeError> {
        Ok((0, 0))
    }

    fn disturbed(&self) -> mpsc::Receiver<()> {
        // Closed: nobody will tell.
        mpsc::channel(1).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_given_out_must_be_free_and_one_that_is_named_need_not() {
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let refused = HostNetwork::new(port..=port).check_port(port).await.unwrap_err();
        assert_eq!(refused.kind, NodeErrorKind::Invalid);
        HostNetwork::new(1..=1).check_port(port).await.unwrap();
        drop(taken);
        HostNetwork::new(port..=port).check_port(port).await.unwrap();
    }
}
