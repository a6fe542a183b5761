//! Whose is what, by the ledger's rows. Read from a copy, beside a gardend that writes them.

use super::{CensusError, Kind, Of, Owner, Seen};
use crate::node::place::Folders;
use gardend_controller::Ledger;
use gardend_controller::ports::NetworkWanted;
use gardend_controller::record::{ContainerRecord, ContainerUid, ImageDigest, ProcessUid, RootfsSource, SandboxId};
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    places: BTreeMap<SandboxId, Option<ContainerUid>>,
    containers: BTreeMap<ContainerUid, ContainerRecord>,
    processes: BTreeMap<ProcessUid, ContainerUid>,
    /// Chains of layers that containers and processes are on.
    chains: BTreeSet<ImageDigest>,
}

impl Records {
    pub async fn read(folders: &Folders) -> Result<Self, CensusError> {
        let path = folders.state().join(Folders::LEDGER);
        let contents = tokio::task::spawn_blocking(move || Ledger::peek(&path)).await;
        let contents = contents.unwrap_or_else(|_| Ok(Default::default()))?;
        let of_containers = contents.containers.iter().map(|row| &row.spec.rootfs);
        let of_processes = contents.processes.iter().filter_map(|row| Some(&row.spec.image.as_ref()?.rootfs));
        let images = of_containers.chain(of_processes).filter_map(RootfsSource::resolved);
        Ok(Self {
            chains: images.map(|image| image.chain.clone()).collect(),
            places: contents.sandboxes.into_iter().map(|row| (row.id, row.container)).collect(),
            containers: contents.containers.into_iter().map(|row| (row.uid.clone(), row)).collect(),
            processes: contents.processes.into_iter().map(|row| (row.uid, row.container)).collect(),
        })
    }

    pub fn owner(&self, of: &Of) -> Owner {
        match of {
            Of::Gardend => Owner::Gardend,
            Of::Nobody => Owner::Nobody,
            Of::Container(uid) => self.of_container(uid),
            Of::Process(uid) => self.processes.get(uid).map_or(Owner::Nobody, |uid| self.of_container(uid)),
            Of::Place(id) => self.of_place(id),
            Of::Places(ids) => {
                let owners = ids.iter().map(|id| self.of_place(id));
                let mut owners = owners.filter(|owner| *owner != Owner::Nobody);
                // Of several, none has it alone.
                match (owners.next(), owners.next()) {
                    (Some(owner), None) => owner,
                    (Some(_), Some(_)) => Owner::Gardend,
                    (None, _) => Owner::Nobody,
                }
            }
            Of::PlaceLike(beginning) => {
                let place = self.places.keys().find(|id| id.as_str().starts_with(beginning.as_str()));
                place.map_or(Owner::Nobody, |id| self.of_place(id))
            }
        }
    }

    fn of_container(&self, uid: &ContainerUid) -> Owner {
        self.containers
            .get(uid)
            .map_or(Owner::Nobody, |record| Owner::Container { handle: record.handle.to_string(), uid: uid.clone() })
    }

    /// One that was a container's which is gone has its row for as long as gardend removes it.
    fn of_place(&self, id: &SandboxId) -> Owner {
        match self.places.get(id) {
            None => Owner::Nobody,
            Some(None) => Owner::Pool,
            Some(Some(uid)) => match self.of_container(uid) {
                Owner::Nobody => Owner::Gardend,
                owner => owner,
            },
        }
    }

    pub fn knows(&self, id: &SandboxId) -> bool {
        self.places.contains_key(id)
    }

    /// The rows themselves.
    pub fn rows(&self) -> Vec<Seen> {
        let row = |table: &str, key: &str, of| Seen::new(Kind::Row, format!("{table} {key}"), of);
        let containers = self.containers.keys();
        let containers = containers.map(|uid| row("containers", uid.as_str(), Of::Container(uid.clone())));
        let places = self.places.keys().map(|id| row("sandboxes", id.as_str(), Of::Place(id.clone())));
        let processes = self.processes.keys().map(|uid| row("processes", uid.as_str(), Of::Process(uid.clone())));
        containers.chain(places).chain(processes).collect()
    }

    /// Chains of layers that containers and processes are on.
    pub fn chains(&self) -> BTreeSet<ImageDigest> {
        self.chains.clone()
    }

    /// What of the node's network is theirs.
    pub fn networks(&self) -> Vec<NetworkWanted> {
        self.containers.values().filter_map(NetworkWanted::of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_its_containers_the_pools_or_being_removed_and_else_nobodys() {
        let (pooled, removed, unknown) = (SandboxId::generate(), SandboxId::generate(), SandboxId::generate());
        let places = [(pooled.clone(), None), (removed.clone(), Some(ContainerUid::generate()))].into();
        let records = Records { places, ..Records::default() };
        let of = |id: &SandboxId| records.owner(&Of::Place(id.clone()));
        assert_eq!((of(&pooled), of(&removed), of(&unknown)), (Owner::Pool, Owner::Gardend, Owner::Nobody));
        let beginning = pooled.as_str()[..9].to_owned();
        assert_eq!(records.owner(&Of::PlaceLike(beginning)), Owner::Pool);
        let shim = |ids: [&SandboxId; 2]| records.owner(&Of::Places(ids.into_iter().cloned().collect()));
        assert_eq!((shim([&pooled, &unknown]), shim([&pooled, &removed])), (Owner::Pool, Owner::Gardend));
        assert_eq!(records.owner(&Of::Places(BTreeSet::new())), Owner::Nobody);
    }
}
