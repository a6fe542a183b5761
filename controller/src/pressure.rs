//! Whether the node has too little memory or disk left to take more containers.
//!
//! Looked at every few seconds, and not with each create: the answer is the same for all who ask
//! in between. What was too little is enough again only once a quarter more than the threshold is
//! free, so that a node at the edge does not refuse and accept in turns. What there is already is
//! used as ever. A node that cannot say what it has left is left as it was.

use crate::ports::{Headroom, Room};
use crate::shared::Shared;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// From one look to the next.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a disk may take to say what is left of it.
const PATIENCE: Duration = Duration::from_secs(5);

/// How little is too little; `None`: nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PressureOptions {
    /// Of the machine's memory.
    pub memory: Option<Threshold>,
    /// Of each file system that containers write to.
    pub disk: Option<Threshold>,
}

/// A part of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threshold {
    /// So many.
    Bytes(u64),
    /// Of all there is.
    Percent(u8),
}

impl Threshold {
    fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => total / 100 * u64::from(percent),
        }
    }
}

/// Of what there can be too little.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Memory.
    Memory,
    /// The file system of this folder.
    Disk(String),
}

/// Too little of something. Without the figure of the moment, which is another at each look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Of what.
    pub resource: Resource,
    /// Less than so many bytes are left.
    pub threshold: u64,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.resource {
            Resource::Memory => write!(f, "less than {} bytes of memory are available", self.threshold),
            Resource::Disk(folder) => {
                write!(f, "less than {} bytes are free on the file system of {folder}", self.threshold)
            }
        }
    }
}

/// What the node has too little of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Of memory; `None` where nobody looks.
    pub memory: Option<Result<(), Shortage>>,
    /// Of disk; `None` where nobody looks.
    pub disk: Option<Result<(), Shortage>>,
}

impl Pressure {
    /// The first thing that there is too little of.
    pub fn shortage(&self) -> Option<Shortage> {
        [&self.memory, &self.disk].into_iter().flatten().find_map(|looked| looked.clone().err())
    }

    /// As it is with so much left, after it was as it is.
    fn next(&self, options: &PressureOptions, left: &Headroom) -> Self {
        let memory = options
            .memory
            .zip(left.memory)
            .map(|(threshold, room)| enough(threshold, room, || Resource::Memory, matches!(self.memory, Some(Err(_)))));
        let disk = options.disk.map(|threshold| {
            left.disks.iter().try_for_each(|(folder, room)| {
                let resource = Resource::Disk(folder.clone());
                let short = matches!(&self.disk, Some(Err(shortage)) if shortage.resource == resource);
                enough(threshold, *room, || resource, short)
            })
        });
        Self { memory, disk }
    }
}

fn enough(
    threshold: Threshold,
    room: Room,
    resource: impl FnOnce() -> Resource,
    was_short: bool,
) -> Result<(), Shortage> {
    let threshold = threshold.of(room.total);
    let wanted = if was_short { threshold.saturating_add(threshold / 4) } else { threshold };
    if room.free >= wanted { Ok(()) } else { Err(Shortage { resource: resource(), threshold }) }
}

/// Looks every while, where an operator wants that.
pub async fn run(shared: Arc<Shared>) {
    if shared.options.pressure == PressureOptions::default() {
        return;
    }
    loop {
        tokio::time::sleep(PAUSE).await;
        look(&shared).await;
    }
}

/// One look.
pub async fn look(shared: &Shared) {
    let options = &shared.options.pressure;
    if *options == PressureOptions::default() {
        return;
    }
    let left = match timeout(PATIENCE, shared.node.metrics.headroom()).await {
        Ok(Ok(left)) => left,
        Ok(Err(error)) => return tracing::warn!(%error, "what the node has left is not known"),
        Err(_) => return tracing::warn!("the node did not say within {PATIENCE:?} what it has left"),
    };
    let mut state = shared.state();
    let next = state.pressure.next(options, &left);
    if next == state.pressure {
        return;
    }
    match (state.pressure.shortage(), next.shortage()) {
        (_, Some(shortage)) => tracing::warn!(%shortage, "new containers are refused for now"),
        (Some(_), None) => tracing::info!("the node has enough left again: new containers are taken"),
        (None, None) => {}
    }
    state.pressure = next;
    state.followers.node_changed();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn left(memory: u64, disks: &[(&str, u64)]) -> Headroom {
        let room = |free| Room { free, total: 1000 };
        let disks = disks.iter().map(|(folder, free)| ((*folder).to_owned(), room(*free))).collect();
        Headroom { memory: Some(room(memory)), disks }
    }

    const OPTIONS: PressureOptions =
        PressureOptions { memory: Some(Threshold::Percent(10)), disk: Some(Threshold::Bytes(100)) };

    #[test]
    fn what_was_too_little_is_enough_with_a_quarter_more() {
        let mut pressure = Pressure::default();
        let mut short = |free| {
            pressure = pressure.next(&OPTIONS, &left(free, &[]));
            pressure.shortage().is_some()
        };
        let looks = [(100, false), (99, true), (100, true), (124, true), (125, false), (100, false)];
        for (free, expected) in looks {
            assert_eq!(short(free), expected, "with {free} left");
        }
    }

    #[test]
    fn a_full_disk_is_named_and_another_one_that_has_room_does_not_help() {
        let full = Pressure::default().next(&OPTIONS, &left(1000, &[("/a", 500), ("/b", 99)]));
        let shortage = full.shortage().expect("a shortage");
        assert_eq!(shortage.to_string(), "less than 100 bytes are free on the file system of /b");
        let other = full.next(&OPTIONS, &left(1000, &[("/a", 110), ("/b", 130)]));
        assert_eq!(other.shortage(), None, "/a was never short");
    }

    #[test]
    fn nobody_is_refused_where_nobody_looks() {
        let pressure = Pressure::default().next(&PressureOptions::default(), &left(0, &[("/a", 0)]));
        assert_eq!(pressure, Pressure::default());
    }

    proptest! {
        #[test]
        fn with_less_left_it_is_never_better(free in 0u64..2000, less in 0u64..2000, before in 0u64..2000) {
            let before = Pressure::default().next(&OPTIONS, &left(before, &[]));
            let short = |free: u64| before.next(&OPTIONS, &left(free, &[])).shortage().is_some();
            prop_assert!(!short(free) || short(free.min(less)));
        }
    }
}
