//! The network of the fake node: links that go with their places, and what is in force for them.
//! One at a time, as the real one; what is wanted is asked before the call's delay, so that the
//! answer is as old as it may be.

use super::Call;
use super::ports::{Life, not_there};
use super::world::World;
use crate::ports::{AttachWanted, Network, NetworkWanted, NodeError, NodeErrorKind, WantedNow};
use crate::record::{Addresses, ContainerUid, RuleOut, SandboxId};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::PoisonError;
use tokio::sync::mpsc;

impl World {
    /// Gives a place an address that nobody had before.
    fn attach(&mut self, wanted: &AttachWanted) -> Result<Addresses, NodeError> {
        let sandbox = &wanted.sandbox;
        if !self.places.get(sandbox).is_some_and(|place| place.running) {
            return Err(NodeError::new(NodeErrorKind::Failed, format!("place {sandbox} is gone")));
        }
        if let Some((place, addresses)) = self.attached.get(&wanted.container)
            && place == sandbox
        {
            return Ok(addresses.clone());
        }
        self.next_address += 1;
        let [a, b] = self.next_address.to_be_bytes();
        let address = [10, 99, a, b].into();
        let subnet = ipnet::Ipv4Net::new_assert(address, 24).trunc();
        let addresses = Addresses { address, subnet, gateway: [10, 99, a, 254].into(), ipv6: None };
        self.attached.insert(wanted.container.clone(), (sandbox.clone(), addresses.clone()));
        Ok(addresses)
    }

    /// Puts one in force.
    fn connect(&mut self, wanted: NetworkWanted) -> Result<(), NodeError> {
        let sandbox = &wanted.sandbox;
        let place = self.places.get_mut(sandbox).filter(|place| place.running);
        let place = place.ok_or_else(|| NodeError::new(NodeErrorKind::Failed, format!("place {sandbox} is gone")))?;
        place.connected = true;
        if let Some((_, attached)) = self.attached.get(&wanted.container)
            && *attached != wanted.addresses
        {
            self.violations.push(format!("{} is believed to be at {}", wanted.handle, wanted.addresses.address));
        }
        if place.furnished.as_ref().is_some_and(|owner| *owner != wanted.container) {
            self.violated(format!("place {sandbox} was given the network of another container"));
        }
        self.cut_off.remove(&wanted.container);
        self.networks.insert(wanted.container.clone(), wanted);
        self.look_for_clashes();
        Ok(())
    }

    fn look_for_clashes(&mut self) {
        let mut clashes = Vec::new();
        let all: Vec<&NetworkWanted> = self.networks.values().collect();
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                let (a, b) = (&one.addresses, &other.addresses);
                if a.address == b.address || (a.ipv6.is_some() && a.ipv6 == b.ipv6) {
                    clashes.push(format!("{} and {} have one address: {}", one.handle, other.handle, a.address));
                }
                let port =
                    one.ports_in.iter().find(|port| other.ports_in.iter().any(|b| b.host_port == port.host_port));
                if let Some(port) = port {
                    clashes.push(format!("{} and {} have one port: {}", one.handle, other.handle, port.host_port));
                }
            }
        }
        self.violations.extend(clashes);
    }
}

#[async_trait]
impl Network for Life {
    async fn check_rules(&self, _rules: &[RuleOut]) -> Result<(), NodeError> {
        self.plain(Call::CheckRules, |_| Ok(())).await
    }

    async fn check_port(&self, host_port: u16) -> Result<(), NodeError> {
        self.plain(Call::CheckPort, |world| {
            if !world.listening.contains(&host_port) {
                return Ok(());
            }
            let message = format!("a program of the node already listens on port {host_port}; ask for another");
            Err(NodeError::new(NodeErrorKind::Invalid, message))
        })
        .await
    }

    async fn attach(
        &self,
        wanted: WantedNow<'_, Option<AttachWanted>>,
        found: &(dyn Fn(Addresses) + Send + Sync),
    ) -> Result<Addresses, NodeError> {
        let _turn = self.network_turn.lock().await;
        let wanted = wanted();
        let attached = self.plain(Call::Attach, |world| match wanted {
            Some(wanted) => world.attach(&wanted),
            None => Err(NodeError::new(NodeErrorKind::NotFound, "its network is not wanted any more")),
        });
        let attached = attached.await?;
        found(attached.clone());
        Ok(attached)
    }

    async fn ensure(&self, wanted: WantedNow<'_, Option<NetworkWanted>>) -> Result<(), NodeError> {
        let _turn = self.network_turn.lock().await;
        let wanted = wanted();
        self.plain(Call::EnsureNetwork, |world| match wanted {
            Some(wanted) => world.connect(wanted),
            None => Err(NodeError::new(NodeErrorKind::NotFound, "its network is not wanted any more")),
        })
        .await
    }

    async fn release(&self, container: &ContainerUid) -> Result<(), NodeError> {
        let _turn = self.network_turn.lock().await;
        self.plain(Call::ReleaseNetwork, |world| {
            if world.places.values().any(|place| place.running && place.furnished.as_ref() == Some(container)) {
                world.violated(format!("the network of {container} was released under it"));
            }
            world.networks.remove(container);
            world.attached.remove(container);
            world.cut_off.remove(container);
            Ok(())
        })
        .await
    }

    async fn restore(&self, wanted: WantedNow<'_, Vec<NetworkWanted>>) -> Result<(), NodeError> {
        let _turn = self.network_turn.lock().await;
        let wanted = wanted();
        self.plain(Call::RestoreNetwork, |world| {
            let mut before = std::mem::take(&mut world.networks);
            let all: BTreeMap<_, _> = wanted.into_iter().map(|wanted| (wanted.container.clone(), wanted)).collect();
            for (uid, wanted) in all {
                let place = world.places.get_mut(&wanted.sandbox).filter(|place| place.running);
                let kept = match place {
                    Some(place) => {
                        place.connected = true;
                        world.cut_off.remove(&uid);
                        Some(wanted)
                    }
                    None => before.remove(&uid),
                };
                world.networks.extend(kept.map(|kept| (uid, kept)));
            }
            let networks = &world.networks;
            world.attached.retain(|uid, _| networks.contains_key(uid));
            world.cut_off.retain(|uid| networks.contains_key(uid));
            world.look_for_clashes();
            Ok(())
        })
        .await
    }

    async fn bandwidth(&self, sandbox: &SandboxId) -> Result<(u64, u64), NodeError> {
        self.plain(Call::Bandwidth, |world| {
            let running = world.places.get(sandbox).is_some_and(|place| place.running);
            let network = world.networks.values().find(|network| running && network.sandbox == *sandbox);
            let network = network.ok_or_else(|| not_there(sandbox))?;
            Ok((network.bandwidth_rate, network.bandwidth_burst))
        })
        .await
    }

    fn disturbed(&self) -> mpsc::Receiver<()> {
        let mut disturbed = self.disturbed.lock().unwrap_or_else(PoisonError::into_inner);
        disturbed.take().unwrap_or_else(|| mpsc::channel(1).1)
    }
}
