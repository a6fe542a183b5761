//! A node whose containers have their own loopback alone (`--network none`).
//!
//! The controller gives nobody an address then, and asks for nothing. What an earlier gardend made
//! stays as it is until its places go; whoever asks for a network all the same is told.

use async_trait::async_trait;
use gardend_controller::ports::{Network, NetworkWanted, NodeError, NodeErrorKind, WantedNow};
use gardend_controller::record::{ContainerUid, RuleOut, SandboxId};
use tokio::sync::mpsc;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNetwork;

fn none() -> NodeError {
    let message = "this gardend makes no networks (--network none); run it with --network builtin";
    NodeError::new(NodeErrorKind::Invalid, message)
}

#[async_trait]
impl Network for NoNetwork {
    async fn check_rules(&self, _rules: &[RuleOut]) -> Result<(), NodeError> {
        Ok(())
    }

    async fn check_port(&self, _host_port: u16) -> Result<(), NodeError> {
        Err(none())
    }

    async fn ensure(&self, _wanted: WantedNow<'_, Option<NetworkWanted>>) -> Result<(), NodeError> {
        Err(none())
    }

    async fn release(&self, _container: &ContainerUid) -> Result<(), NodeError> {
        Ok(())
    }

    async fn restore(&self, _wanted: WantedNow<'_, Vec<NetworkWanted>>) -> Result<(), NodeError> {
        Ok(())
    }

    async fn bandwidth(&self, sandbox: &SandboxId) -> Result<(u64, u64), NodeError> {
        let message = format!("place {sandbox} has no link but its own loopback");
        Err(NodeError::new(NodeErrorKind::NotFound, message))
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
    async fn nothing_is_made_and_there_is_nothing_to_take_away() {
        let refused = NoNetwork.ensure(&|| None).await.unwrap_err();
        assert!(refused.message.contains("--network none"), "{refused}");
        assert!(NoNetwork.check_port(8080).await.is_err());
        NoNetwork.release(&ContainerUid::generate()).await.unwrap();
        NoNetwork.restore(&Vec::new).await.unwrap();
        assert_eq!(NoNetwork.disturbed().recv().await, None);
        let unknown = NoNetwork.bandwidth(&SandboxId::generate()).await.unwrap_err();
        assert_eq!(unknown.kind, NodeErrorKind::NotFound);
    }
}
