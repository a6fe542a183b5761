//! What is on the node, and what befalls it.

use super::programs::{Ends, Program};
use super::{Call, Fault};
use crate::ports::{Headroom, NetworkWanted, OomSeen, ProcessEvent, ReaderId};
use crate::record::{
    Addresses, ContainerUid, ExitStatus, ImageCredentials, ImageDigest, Limits, ProcessUid, ResolvedImage, SandboxId,
    SandboxKind,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

#[derive(Default)]
pub struct World {
    pub places: BTreeMap<SandboxId, Place>,
    pub layers: BTreeSet<ContainerUid>,
    /// By their names.
    pub images: BTreeMap<String, ResolvedImage>,
    pub credentials: Vec<ImageCredentials>,
    /// What those hold who hold an image, by its digest.
    pub pins: HashMap<ImageDigest, Arc<()>>,
    pub processes: BTreeMap<ProcessUid, Process>,
    /// Every process that was ever started.
    pub spawned: HashSet<ProcessUid>,
    pub readers: BTreeMap<ReaderId, Reader>,
    /// Tar streams by where they were streamed to.
    pub files: BTreeMap<(SandboxId, String), Vec<u8>>,
    /// What is in force, also where the place is gone.
    pub networks: BTreeMap<ContainerUid, NetworkWanted>,
    /// Those of which others have removed something: nothing gets through.
    pub cut_off: BTreeSet<ContainerUid>,
    /// Ports that programs of the node listen on.
    pub listening: BTreeSet<u16>,
    pub next_id: u64,
    /// Which gardend's calls count.
    pub life: u64,
    pub events: Option<mpsc::Sender<ProcessEvent>>,
    pub oom_events: Option<mpsc::Sender<SandboxId>>,
    pub disturbed: Option<mpsc::Sender<()>>,
    /// Told of every change.
    pub changed: watch::Sender<()>,
    pub faults: HashMap<Call, VecDeque<Fault>>,
    pub delays: HashMap<Call, Duration>,
    pub calls: HashMap<Call, usize>,
    pub at_once: HashMap<Call, usize>,
    pub most_at_once: HashMap<Call, usize>,
    pub away: bool,
    pub lose_events: bool,
    pub unkillable: bool,
    pub violations: Vec<String>,
    /// Where the node gave containers addresses itself.
    pub attached: BTreeMap<ContainerUid, (SandboxId, Addresses)>,
    pub next_address: u16,
    /// What is left.
    pub headroom: Headroom,
}

pub struct Place {
    pub kind: SandboxKind,
    pub running: bool,
    pub furnished: Option<ContainerUid>,
    pub half_furnished: bool,
    /// It was told that it has a network, and once had it.
    pub networked: bool,
    pub connected: bool,
    /// Made with settings that are other by now.
    pub outdated: bool,
    pub label: Option<(ContainerUid, String)>,
    /// Processes that run in it.
    pub alive: usize,
    pub limits: Limits,
    pub oom: OomSeen,
}

impl Place {
    pub fn running(kind: SandboxKind) -> Self {
        Self {
            kind,
            running: true,
            furnished: None,
            half_furnished: false,
            networked: false,
            connected: false,
            outdated: false,
            label: None,
            alive: 0,
            limits: Limits::default(),
            oom: OomSeen::default(),
        }
    }
}

pub struct Process {
    pub place: SandboxId,
    pub program: Program,
    pub pid: u32,
    pub exit: Option<ExitStatus>,
    pub acknowledged: bool,
    pub stdin_open: bool,
    pub terminal: bool,
    /// Readers that have a place in its outputs.
    pub readers: usize,
    pub outputs: [Pipe; 2],
}

/// One output: everything that was written, and how much of it somebody has read.
#[derive(Default)]
pub struct Pipe {
    pub bytes: Vec<u8>,
    pub taken: usize,
    pub ended: bool,
}

/// A reader's places.
pub struct Reader {
    pub process: ProcessUid,
    pub at: [usize; 2],
}

impl World {
    pub fn tell(&mut self, event: ProcessEvent) {
        if let Some(events) = self.events.as_ref().filter(|_| !self.lose_events) {
            // One that does not fit is lost, which is a fault like any other.
            let _ = events.try_send(event);
        }
    }

    pub fn violated(&mut self, what: String) {
        self.violations.push(what);
    }

    pub fn running(&self) -> Vec<ProcessUid> {
        let runs = self.processes.iter().filter(|(_, process)| process.exit.is_none());
        runs.map(|(uid, _)| uid.clone()).collect()
    }

    pub fn occupied(&self, id: &SandboxId) -> bool {
        self.places.get(id).is_some_and(|place| place.alive > 0)
    }

    /// What a program does next, on being started, written to or signalled.
    pub fn act(&mut self, uid: &ProcessUid, act: impl FnOnce(&mut Process) -> Option<Ends>) {
        let Some(process) = self.processes.get_mut(uid).filter(|process| process.exit.is_none()) else { return };
        let place = process.place.clone();
        if let Some(Ends(status)) = act(process) {
            process.exit = Some(status);
            process.outputs.iter_mut().for_each(|pipe| pipe.ended = true);
            if let Some(place) = self.places.get_mut(&place) {
                place.alive -= 1;
            }
            self.tell(ProcessEvent::Exited { sandbox: place.clone(), process: uid.clone(), status });
            if !self.occupied(&place) {
                self.tell(ProcessEvent::Emptied { sandbox: place });
            }
        }
        self.changed.send_replace(());
    }

    /// Ends everything in a place without a trace, as the death of its pid namespace does.
    pub fn empty(&mut self, id: &SandboxId) {
        self.processes.retain(|_, process| process.place != *id);
        self.files.retain(|(place, _), _| place != id);
        if let Some(place) = self.places.get_mut(id) {
            place.running = false;
            place.alive = 0;
        }
        self.changed.send_replace(());
    }

    pub fn out_of_memory(&mut self, id: &SandboxId, words: &str) {
        let Some(place) = self.places.get_mut(id) else { return };
        place.oom.kills += 1;
        place.oom.last = Some(words.to_owned());
        if let Some(events) = self.oom_events.as_ref().filter(|_| !self.lose_events) {
            // One that does not fit is lost, which is a fault like any other.
            let _ = events.try_send(id.clone());
        }
    }

    pub fn kill_init(&mut self, id: &SandboxId) {
        let running = self.places.get(id).is_some_and(|place| place.running);
        if running {
            self.empty(id);
            self.tell(ProcessEvent::InitGone { sandbox: id.clone(), reason: "it was killed".into() });
        }
    }
}
