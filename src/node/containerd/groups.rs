//! Which places share a shim.
//!
//! A shim costs some 13 MB, so places with the same group annotation share one: at most K, since a
//! shim that dies takes its whole group along. A shim goes when its last place is deleted, and
//! nothing tells a create that has found it alive that it is about to. Hence two rules:
//!
//! - a create joins only a group in which some place *stays*, or founds a new one;
//! - the last place that stays may be deleted only when no create is under way in its group.
//!
//! ```text
//!            join              made
//!   (none) -------> Joining ---------> Staying
//!                      | failed           | leave
//!                      v                  v     left
//!                   Leaving <--------- Leaving -------> (none; a group without places is forgotten)
//! ```
//!
//! [`Table`] decides and is pure; [`Groups`] waits, with a deadline, until the decision is to go.
//! A group is called after the place that founded it, as on its shim's command line. After a
//! restart the table is rebuilt, before the first join, from the places' folders and labels.

use gardend_controller::record::SandboxId;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// What stands in the annotation: the founder's id. Never used again once its last place is gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupId(SandboxId);

impl GroupId {
    /// One that was written down before.
    pub fn parse(text: &str) -> Option<Self> {
        SandboxId::parse(text).map(Self)
    }

    /// As text: for the annotation, the label and the folder.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The place for which the shim was started.
    pub fn founder(&self) -> &str {
        self.0.as_str()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    /// Its create is under way.
    Joining,
    /// It is there, and nobody is about to delete it.
    Staying,
    /// It is being deleted, or of no use and waits for that.
    Leaving,
}

#[derive(Debug, Default)]
struct Group {
    members: BTreeMap<SandboxId, Member>,
    /// Its shim did not answer: nobody joins any more.
    shunned: bool,
}

impl Group {
    fn count(&self, state: Member) -> usize {
        self.members.values().filter(|&&member| member == state).count()
    }
}

/// What a place that wants to be made is told.
#[derive(Debug, PartialEq, Eq)]
enum Join {
    /// It is a member of this group now.
    Of(GroupId),
    /// A group is being founded; ask again when something has changed.
    Wait,
}

/// What a place that is to be deleted is told.
#[derive(Debug, PartialEq, Eq)]
enum Leave {
    /// Delete it.
    Go,
    /// A create in its group is under way; ask again when something has changed.
    Wait,
}

/// What a place that is deleted leaves behind.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// Others, or nothing at all.
    Gone,
    /// A group without anybody else. The place is still in it, and nobody joins it.
    Last(GroupId),
}

/// The groups, and who is in them.
#[derive(Debug)]
struct Table {
    limit: usize,
    groups: BTreeMap<GroupId, Group>,
    of: BTreeMap<SandboxId, GroupId>,
}

impl Table {
    fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), groups: BTreeMap::new(), of: BTreeMap::new() }
    }

    fn join(&mut self, id: &SandboxId) -> Join {
        let limit = self.limit;
        let has_room = |group: &Group| !group.shunned && group.members.len() < limit;
        let joinable = |group: &Group| has_room(group) && group.count(Member::Staying) > 0;
        let being_founded = |group: &Group| has_room(group) && group.count(Member::Joining) > 0;
        let fullest =
            self.groups.iter().filter(|(_, group)| joinable(group)).max_by_key(|(_, group)| group.members.len());
        let found = match fullest {
            Some((found, _)) => found.clone(),
            None if self.groups.values().any(being_founded) => return Join::Wait,
            // An id that was used before may have founded a group that is still there.
            None if self.groups.contains_key(&GroupId(id.clone())) => GroupId(SandboxId::generate()),
            None => GroupId(id.clone()),
        };
        self.put(id, found.clone(), Member::Joining);
        Join::Of(found)
    }

    fn settle(&mut self, id: &SandboxId, made: bool) {
        if let Some(member) = self.member(id).filter(|member| **member == Member::Joining) {
            *member = if made { Member::Staying } else { Member::Leaving };
        }
    }

    fn leave(&mut self, id: &SandboxId) -> Leave {
        let Some(member) = self.member(id) else { return Leave::Go };
        *member = Member::Leaving;
        let group = &self.groups[&self.of[id]];
        if group.count(Member::Joining) > 0 && group.count(Member::Staying) == 0 { Leave::Wait } else { Leave::Go }
    }

    fn depart(&mut self, id: &SandboxId) -> Departure {
        match self.of.get(id) {
            Some(name) if self.groups[name].members.len() == 1 => Departure::Last(name.clone()),
            _ => {
                self.forget(id);
                Departure::Gone
            }
        }
    }

    /// Its group, if every place in it is to be deleted.
    fn given_up(&self, id: &SandboxId) -> Option<GroupId> {
        let name = self.of.get(id)?;
        let group = &self.groups[name];
        (group.count(Member::Leaving) == group.members.len()).then(|| name.clone())
    }

    fn forget(&mut self, id: &SandboxId) {
        let Some(name) = self.of.remove(id) else { return };
        if let Some(group) = self.groups.get_mut(&name) {
            group.members.remove(id);
            if group.members.is_empty() {
                self.groups.remove(&name);
            }
        }
    }

    fn adopt(&mut self, id: &SandboxId, group: GroupId, runs: bool) {
        if !self.of.contains_key(id) {
            self.put(id, group, if runs { Member::Staying } else { Member::Leaving });
        }
    }

    fn shun(&mut self, id: &SandboxId) {
        if let Some(group) = self.of.get(id).and_then(|name| self.groups.get_mut(name)) {
            group.shunned = true;
        }
    }

    fn put(&mut self, id: &SandboxId, group: GroupId, member: Member) {
        self.forget(id);
        self.groups.entry(group.clone()).or_default().members.insert(id.clone(), member);
        self.of.insert(id.clone(), group);
    }

    fn member(&mut self, id: &SandboxId) -> Option<&mut Member> {
        self.groups.get_mut(self.of.get(id)?)?.members.get_mut(id)
    }
}

/// It would have had to wait for longer than its deadline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("other places of its shim group are still being made or removed after {} s", .0.as_secs())]
pub(super) struct GroupBusy(Duration);

/// The table, shared by everybody who makes and removes places.
#[derive(Debug)]
pub(super) struct Groups {
    table: Mutex<Table>,
    changed: Notify,
}

impl Groups {
    /// Groups of at most `limit` places.
    pub fn new(limit: usize) -> Self {
        Self { table: Mutex::new(Table::new(limit)), changed: Notify::new() }
    }

    /// Finds a group for a place that is about to be made.
    pub async fn join(&self, id: &SandboxId, deadline: Duration) -> Result<Joining<'_>, GroupBusy> {
        let group = self
            .when(deadline, |table| match table.join(id) {
                Join::Of(group) => Some(group),
                Join::Wait => None,
            })
            .await?;
        Ok(Joining { groups: self, id: id.clone(), group, made: false })
    }

    /// Returns when the place may be deleted. From the call on nobody joins on its account.
    pub async fn leave(&self, id: &SandboxId, deadline: Duration) -> Result<(), GroupBusy> {
        self.when(deadline, |table| (table.leave(id) == Leave::Go).then_some(())).await
    }

    /// The place is deleted. The last one of its group stays in it until it is forgotten, so that
    /// whoever is interrupted meanwhile is told the same again.
    pub fn depart(&self, id: &SandboxId) -> Departure {
        self.change(|table| table.depart(id))
    }

    /// The place is gone, and with the last one its group.
    pub fn forget(&self, id: &SandboxId) {
        self.change(|table| table.forget(id));
    }

    /// The place's group, if every place in it is to be deleted.
    pub fn given_up(&self, id: &SandboxId) -> Option<GroupId> {
        self.change(|table| table.given_up(id))
    }

    /// A place that an earlier gardend made.
    pub fn adopt(&self, id: &SandboxId, group: GroupId, runs: bool) {
        self.change(|table| table.adopt(id, group, runs));
    }

    /// The place's shim does not answer: nobody else is put behind it.
    pub fn shun(&self, id: &SandboxId) {
        self.change(|table| table.shun(id));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).groups.len()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        // A poisoned lock is of no account: no change of the table can panic half-way.
        let result = change(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
        result
    }

    /// Asks until there is an answer. Cancel-safe: what was decided is returned without a pause.
    async fn when<T>(&self, deadline: Duration, mut ask: impl FnMut(&mut Table) -> Option<T>) -> Result<T, GroupBusy> {
        let asking = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                // From here on a change is not missed.
                changed.as_mut().enable();
                let answer = ask(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner));
                match answer {
                    Some(answer) => return answer,
                    None => changed.await,
                }
            }
        };
        let answer = tokio::time::timeout(deadline, asking).await.map_err(|_| GroupBusy(deadline))?;
        self.changed.notify_waiters();
        Ok(answer)
    }
}

/// A create under way. Dropped without [`Joining::made`]: the place is of no use and waits for its
/// removal.
pub(super) struct Joining<'a> {
    groups: &'a Groups,
    id: SandboxId,
    group: GroupId,
    made: bool,
}

impl Joining<'_> {
    /// Which group it is.
    pub fn group(&self) -> &GroupId {
        &self.group
    }

    /// The place is there: others may count on it.
    pub fn made(mut self) {
        self.made = true;
    }
}

impl Drop for Joining<'_> {
    fn drop(&mut self) {
        let made = self.made;
        self.groups.change(|table| table.settle(&self.id, made));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn id(n: u8) -> SandboxId {
        SandboxId::parse(&format!("{n:032x}")).unwrap()
    }

    fn by(founder: u8) -> GroupId {
        GroupId(id(founder))
    }

    #[test]
    fn the_first_founds_a_group_the_others_wait_for_it_and_then_join() {
        let mut table = Table::new(3);
        assert_eq!(table.join(&id(1)), Join::Of(by(1)));
        assert_eq!(table.join(&id(2)), Join::Wait);
        table.settle(&id(1), true);
        assert_eq!(table.join(&id(2)), Join::Of(by(1)));
        assert_eq!(table.join(&id(3)), Join::Of(by(1)));
        assert_eq!(table.join(&id(4)), Join::Of(by(4)), "a group is full at its limit");
    }

    #[test]
    fn a_group_whose_last_staying_place_leaves_is_not_joined() {
        let mut table = Table::new(16);
        table.join(&id(1));
        table.settle(&id(1), true);
        assert_eq!(table.leave(&id(1)), Leave::Go);
        assert_eq!(table.join(&id(2)), Join::Of(by(2)));
    }

    #[test]
    fn the_last_staying_place_waits_for_a_create_that_counts_on_it() {
        let mut table = Table::new(16);
        table.join(&id(1));
        table.settle(&id(1), true);
        table.join(&id(2));
        assert_eq!(table.leave(&id(1)), Leave::Wait);
        table.settle(&id(2), true);
        assert_eq!(table.leave(&id(1)), Leave::Go);
    }

    #[test]
    fn a_founder_that_failed_is_not_counted_on_and_holds_nobody_up() {
        let mut table = Table::new(16);
        table.join(&id(1));
        table.settle(&id(1), false);
        assert_eq!(table.join(&id(2)), Join::Of(by(2)));
        assert_eq!(table.leave(&id(1)), Leave::Go);
    }

    #[test]
    fn nobody_joins_a_group_whose_shim_did_not_answer() {
        let mut table = Table::new(16);
        table.join(&id(1));
        table.settle(&id(1), true);
        table.shun(&id(1));
        assert_eq!(table.join(&id(2)), Join::Of(by(2)));
    }

    #[test]
    fn places_of_an_earlier_gardend_are_joined_where_they_run() {
        let mut table = Table::new(16);
        table.adopt(&id(1), by(1), false);
        assert_eq!(table.join(&id(2)), Join::Of(by(2)));
        table.settle(&id(2), false);
        table.adopt(&id(3), by(9), true);
        assert_eq!(table.join(&id(4)), Join::Of(by(9)));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_the_change_or_with_the_deadline() {
        let groups = Groups::new(16);
        let first = groups.join(&id(1), Duration::from_secs(1)).await.unwrap();
        assert!(groups.join(&id(2), Duration::from_secs(1)).await.is_err());
        let (one, two) = (id(1), id(2));
        let (second, ()) = tokio::join!(groups.join(&two, Duration::from_secs(1)), async { first.made() });
        let second = second.unwrap();
        let (left, ()) = tokio::join!(groups.leave(&one, Duration::from_secs(1)), async { drop(second) });
        assert_eq!(left, Ok(()));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Join(u8),
        Settle(u8, bool),
        Leave(u8),
        Left(u8),
        Shun(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (0u8..12).prop_flat_map(|n| {
            prop_oneof![
                3 => Just(Step::Join(n)),
                3 => any::<bool>().prop_map(move |made| Step::Settle(n, made)),
                2 => Just(Step::Leave(n)),
                2 => Just(Step::Left(n)),
                1 => Just(Step::Shun(n)),
            ]
        });
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        /// A model of a shim: it lives from its group's first create until its last place is
        /// deleted. No create may meet it dying, no group may be over its limit.
        #[test]
        fn no_create_ever_meets_a_shim_that_goes(steps in steps()) {
            let mut table = Table::new(4);
            let mut creating = BTreeMap::new();
            let mut alive: BTreeMap<GroupId, BTreeSet<SandboxId>> = BTreeMap::new();
            let mut may_delete = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Join(n) if !table.of.contains_key(&id(n)) => {
                        if let Join::Of(group) = table.join(&id(n)) {
                            let founded = !alive.contains_key(&group);
                            prop_assert!(founded || alive.get(&group).is_some_and(|places| !places.is_empty()));
                            alive.entry(group.clone()).or_default();
                            creating.insert(id(n), group);
                        }
                    }
                    Step::Settle(n, made) => {
                        if let Some(group) = creating.remove(&id(n)) {
                            let places = alive.get_mut(&group).unwrap();
                            places.insert(id(n));
                            table.settle(&id(n), made);
                        }
                    }
                    Step::Leave(n)
                        if !creating.contains_key(&id(n))
                            && table.of.contains_key(&id(n))
                            && table.leave(&id(n)) == Leave::Go =>
                    {
                        may_delete.insert(id(n));
                    }
                    Step::Left(n) if may_delete.remove(&id(n)) => {
                        let group = table.of[&id(n)].clone();
                        let places = alive.get_mut(&group).unwrap();
                        places.remove(&id(n));
                        let going = places.is_empty();
                        prop_assert!(!going || !creating.values().any(|other| *other == group));
                        if going { alive.remove(&group); }
                        match table.depart(&id(n)) {
                            Departure::Last(last) => prop_assert!(going && last == group),
                            Departure::Gone => prop_assert!(!going),
                        }
                        table.forget(&id(n));
                    }
                    Step::Shun(n) => table.shun(&id(n)),
                    _ => {}
                }
                prop_assert!(table.groups.values().all(|group| group.members.len() <= 4 && !group.members.is_empty()));
            }
        }
    }
}
