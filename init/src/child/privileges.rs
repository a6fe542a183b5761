//! Becoming another user, with no more rights than were asked for.

use super::system;
use crate::accounts::Account;
use crate::wire::SpawnFailure;
use rustix::process::{Gid, Uid, getgid, getuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, remove_capability_from_bounding_set,
    set_capabilities, set_thread_gid, set_thread_groups, set_thread_uid,
};

/// The capabilities that init itself has to give, looked up once.
#[derive(Clone, Copy, Debug)]
pub struct Privileges {
    permitted: CapabilitySet,
    bounding: CapabilitySet,
}

impl Privileges {
    /// Of this process.
    ///
    /// # Errors
    /// As `capget(2)`.
    pub fn of_this_process() -> rustix::io::Result<Self> {
        let permitted = capabilities(None)?.permitted;
        let held = |one: &CapabilitySet| capability_is_in_bounding_set(*one).unwrap_or(false);
        let bounding = each(CapabilitySet::all()).filter(held).collect();
        Ok(Self { permitted, bounding })
    }

    /// Makes all that is permitted effective.
    pub fn raise(&self) -> rustix::io::Result<()> {
        let sets = CapabilitySets {
            effective: self.permitted,
            permitted: self.permitted,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets)
    }

    /// Becomes `account`, for good. `asked` bounds the capabilities: root has those of them that
    /// init had, and nobody else has any. What may not be dropped (no CAP_SETPCAP) stays.
    /// Who may become nobody else can still be who it is.
    pub fn assume(&self, account: &Account, asked: u64) -> Result<(), SpawnFailure> {
        let is_itself = (account.uid, account.gid) == (getuid().as_raw(), getgid().as_raw());
        if is_itself && !self.permitted.contains(CapabilitySet::SETUID | CapabilitySet::SETGID) {
            return Ok(());
        }
        let asked = CapabilitySet::from_bits_retain(asked);
        for unwanted in each(self.bounding.difference(asked)) {
            if remove_capability_from_bounding_set(unwanted).is_err() {
                break;
            }
        }
        let groups: Vec<_> = account.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        set_thread_groups(&groups).map_err(|error| system("setgroups", error))?;
        set_thread_gid(Gid::from_raw(account.gid)).map_err(|error| system("setgid", error))?;
        set_thread_uid(Uid::from_raw(account.uid)).map_err(|error| system("setuid", error))?;
        let own = if account.uid == 0 { self.permitted.intersection(asked) } else { CapabilitySet::empty() };
        let sets = CapabilitySets { effective: own, permitted: own, inheritable: CapabilitySet::empty() };
        set_capabilities(None, sets).map_err(|error| system("capset", error))
    }
}

fn each(set: CapabilitySet) -> impl Iterator<Item = CapabilitySet> {
    (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit)).filter(move |one| set.contains(*one))
}
