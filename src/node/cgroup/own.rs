//! Groups of processes that have limits of their own.
//!
//! Such a process is held to what it asked for, and for the rest to the same as its container, but
//! apart from it: its group stands beside `run` and not below, since a limit above would hold it
//! too. What it starts stays with it. Its group is made before it runs, and goes once its end is
//! told; while something that it left behind still runs there it stays, at most as long as the
//! place.
//!
//! On v1 a group takes its count of kills with it. It is added to a file of the place's first, in
//! such a way that gardend's death at any instant makes none counted twice or not at all.

use super::limits::{self, INIT_ROOM};
use super::reading::row;
use super::{Controller, OWN, Place, RUN, Version, is_gone};
use gardend_controller::record::{ProcessLimits, ProcessUid};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// All that there is a limit or a figure of.
const CONTROLLERS: [Controller; 4] = [Controller::Memory, Controller::Pids, Controller::Cpu, Controller::CpuAccounting];

/// Kills in groups that have gone, as the file of a place has them.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tally {
    /// Of those that have gone.
    gone: u64,
    /// Of the one that goes next, or has just gone.
    going: Option<(String, u64)>,
}

impl Tally {
    fn read(file: &Path) -> io::Result<Self> {
        match fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Whole or not at all.
    fn write(&self, file: &Path) -> io::Result<()> {
        let new = file.with_extension("new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(&new, file)
    }

    fn sum(&self, groups: &BTreeMap<ProcessUid, u64>) -> u64 {
        let counted = |name: &str| groups.keys().any(|uid| uid.as_str() == name);
        let going = self.going.as_ref().filter(|(name, _)| !counted(name)).map_or(0, |(_, kills)| *kills);
        groups.values().fold(self.gone.saturating_add(going), |sum, kills| sum.saturating_add(*kills))
    }
}

impl Place<'_> {
    /// The group of a process with limits of its own.
    pub fn process(&self, uid: &ProcessUid) -> Self {
        self.child(&format!("{OWN}{uid}"))
    }

    /// Whether it is there, in any hierarchy.
    pub fn is_there(&self) -> bool {
        CONTROLLERS.into_iter().any(|controller| self.existing(controller).is_some())
    }

    /// Processes that have a group of their own here.
    ///
    /// # Errors
    /// Where a hierarchy cannot be read. None where the place is gone.
    pub fn processes(&self) -> io::Result<BTreeSet<ProcessUid>> {
        let mut found = BTreeSet::new();
        for controller in CONTROLLERS {
            found.extend(self.processes_in(controller)?);
        }
        Ok(found)
    }

    /// The same, in one hierarchy.
    pub(super) fn processes_in(&self, controller: Controller) -> io::Result<BTreeSet<ProcessUid>> {
        let Some(group) = self.group(controller) else { return Ok(BTreeSet::new()) };
        let entries = match fs::read_dir(&group.folder) {
            Err(error) if is_gone(&error) => return Ok(BTreeSet::new()),
            entries => entries?,
        };
        let uid = |entry: fs::DirEntry| ProcessUid::parse(entry.file_name().to_str()?.strip_prefix(OWN)?);
        Ok(entries.flatten().filter_map(uid).collect())
    }
}

/// Makes the group of a process, with its limits in force. What has to be joined.
///
/// # Errors
/// What was written where, and what the kernel said; what was made by then is removed.
pub fn make(place: &Place<'_>, uid: &ProcessUid, asked: &ProcessLimits) -> io::Result<Vec<PathBuf>> {
    let made = attempt(place, uid, asked);
    if made.is_err() {
        for controller in CONTROLLERS {
            if let Some(group) = place.process(uid).existing(controller) {
                // Nothing has joined it.
                let _ = fs::remove_dir(&group.folder);
            }
        }
    }
    made
}

fn attempt(place: &Place<'_>, uid: &ProcessUid, asked: &ProcessLimits) -> io::Result<Vec<PathBuf>> {
    let own = place.process(uid);
    for (controller, needed) in [
        (Controller::Memory, asked.memory_bytes > 0),
        (Controller::Cpu, asked.shares() > 0),
        (Controller::Pids, false),
        (Controller::CpuAccounting, false),
    ] {
        // One that is not there is an error only where something is asked of it.
        if needed || place.group(controller).is_some() {
            limits::group_below(place, own.name(), controller)?;
        }
    }
    let run = place.run();
    let memory = if asked.memory_bytes > 0 { asked.memory_bytes } else { limits::memory_of(&run)?.unwrap_or(0) };
    if memory > 0 {
        limits::set_memory(&own, memory)?;
    }
    if let Some(most) = limits::pids_of(&run)? {
        limits::set_pids(&own, most)?;
    }
    if asked.shares() > 0 {
        limits::set_shares(&own, asked.shares())?;
    }
    level(place)?;
    let mut folders: Vec<_> =
        CONTROLLERS.into_iter().filter_map(|controller| own.group(controller)).map(|group| group.folder).collect();
    folders.dedup();
    Ok(folders)
}

/// Removes the groups of processes that are not kept, and in which nothing runs any more. Whether
/// there is any left. `tally` is the place's file for kills.
///
/// # Errors
/// What could not be read or written; to be tried again.
pub fn remove_ended(place: &Place<'_>, tally: &Path, is_kept: impl Fn(&ProcessUid) -> bool) -> io::Result<bool> {
    let mut left = false;
    for uid in place.processes()? {
        left |= is_kept(&uid) || !remove(place, tally, &uid)?;
    }
    level(place).map(|()| left)
}

/// False where something still runs there.
fn remove(place: &Place<'_>, tally: &Path, uid: &ProcessUid) -> io::Result<bool> {
    let own = place.process(uid);
    let groups: Vec<_> = CONTROLLERS.into_iter().filter_map(|controller| own.existing(controller)).collect();
    for group in &groups {
        match fs::read_to_string(group.folder.join("cgroup.procs")) {
            Ok(text) if !text.trim().is_empty() => return Ok(false),
            Err(error) if !is_gone(&error) => return Err(error),
            _ => {}
        }
    }
    let kills = match own.existing(Controller::Memory).filter(|group| group.version == Version::V1) {
        None => 0,
        Some(group) => row(&group.folder, "memory.oom_control", "oom_kill")?,
    };
    if kills > 0 {
        let before = Tally::read(tally)?;
        let there = place.processes_in(Controller::Memory)?;
        let is_there = |name: &str| there.iter().any(|uid| uid.as_str() == name);
        let gone = before.going.filter(|(name, _)| !is_there(name)).map_or(0, |(_, kills)| kills);
        let going = Some((uid.as_str().to_owned(), kills));
        Tally { gone: before.gone.saturating_add(gone), going }.write(tally)?;
    }
    for group in groups {
        match fs::remove_dir(&group.folder) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(false),
            Err(error) if !is_gone(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(true)
}

/// What was killed in groups of processes, also in those that have gone. None on v2, where the
/// place's own count has them all.
///
/// # Errors
/// What could not be read.
pub(super) fn kills(place: &Place<'_>, tally: &Path) -> io::Result<u64> {
    let mut groups = BTreeMap::new();
    // The file is read first: what goes in between is then counted late, and never twice.
    let before = Tally::read(tally)?;
    for uid in place.processes_in(Controller::Memory)? {
        let Some(group) = place.process(&uid).group(Controller::Memory) else { continue };
        match row(&group.folder, "memory.oom_control", "oom_kill") {
            Err(error) if is_gone(&error) => {}
            kills => drop(groups.insert(uid, kills?)),
        }
    }
    Ok(before.sum(&groups))
}

/// A place that is limited as a whole (see [`limits::apply`]) has room for what its parts may have.
fn level(place: &Place<'_>) -> io::Result<()> {
    let (Some(whole), Some(run)) = (limits::memory_of(place)?, limits::memory_of(&place.child(RUN))?) else {
        return Ok(());
    };
    let mut wanted = run.saturating_add(INIT_ROOM);
    for uid in place.processes_in(Controller::Memory)? {
        wanted = wanted.saturating_add(limits::memory_of(&place.process(&uid))?.unwrap_or(0));
    }
    match limits::set_memory(place, wanted) {
        // What is used by now cannot be taken away; the next one that goes comes by.
        Err(error) if wanted < whole => {
            tracing::debug!(%error, "a place's limit is not lowered yet");
            Ok(())
        }
        set => set,
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorded::Recorded;
    use super::*;

    const LIMITS: ProcessLimits = ProcessLimits { cpu_weight: 512, cpu_shares: 0, memory_bytes: 1 << 20 };

    fn tally(tree: &Recorded) -> PathBuf {
        tree.root().join("tally")
    }

    #[test]
    fn on_v1_a_process_is_limited_beside_run_and_as_its_container_for_the_rest() {
        let (tree, uid) = (Recorded::v1(), ProcessUid::generate());
        tree.prepare_run(&["memory", "pids"]);
        tree.write("pids/P/run/pids.max", "40\n");
        tree.prepare_process(&uid);
        let joined = make(&tree.place(), &uid, &LIMITS).unwrap();
        let own = format!("P/{OWN}{uid}");
        for (file, value) in [
            ("memory/#/memory.limit_in_bytes", "1048576"),
            ("memory/#/memory.memsw.limit_in_bytes", "1048576"),
            ("pids/#/pids.max", "40"),
            ("cpu/#/cpu.shares", "512"),
        ] {
            assert_eq!(tree.read(&file.replace('#', &own)), value, "{file}");
        }
        assert_eq!(joined.len(), 4, "{joined:?}");
        assert!(joined.iter().all(|folder| folder.ends_with(format!("{OWN}{uid}"))), "{joined:?}");
        assert_eq!(tree.place().processes().unwrap(), [uid].into());
    }

    #[test]
    fn on_v2_one_group_has_all_of_it() {
        let (tree, uid) = (Recorded::v2(), ProcessUid::generate());
        tree.prepare_run(&[""]);
        tree.write("P/run/memory.max", "8192\n");
        tree.prepare_process(&uid);
        let asked = ProcessLimits { memory_bytes: 0, ..LIMITS };
        let joined = make(&tree.place(), &uid, &asked).unwrap();
        assert_eq!(joined.len(), 1, "{joined:?}");
        let own = |file: &str| tree.read(&format!("P/{OWN}{uid}/{file}"));
        assert_eq!((own("memory.max"), own("cpu.weight")), ("8192".into(), "20".into()));
        assert_eq!(tree.read("P/init/cgroup.procs"), "4711");
        assert!(!tree.place().to_join().is_empty(), "what is started from now on cannot stay in the place itself");
    }

    #[test]
    fn a_place_that_is_limited_as_a_whole_makes_room() {
        let (tree, uid) = (Recorded::v1(), ProcessUid::generate());
        tree.prepare_run(&["memory", "pids"]);
        tree.write("memory/P/run/memory.limit_in_bytes", "8388608\n");
        tree.write("memory/P/memory.limit_in_bytes", "41943040\n");
        tree.prepare_process(&uid);
        make(&tree.place(), &uid, &LIMITS).unwrap();
        assert_eq!(tree.read("memory/P/memory.limit_in_bytes"), ((8 << 20) + INIT_ROOM + (1 << 20)).to_string());
    }

    #[test]
    fn kills_are_counted_once_whenever_a_group_goes() {
        let (tree, first, second) = (Recorded::v1(), ProcessUid::generate(), ProcessUid::generate());
        let count = || kills(&tree.place(), &tally(&tree)).unwrap();
        let killed = |uid: &ProcessUid, kills: u64| {
            tree.prepare_process(uid);
            let text = format!("oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n");
            tree.write(&format!("memory/P/{OWN}{uid}/memory.oom_control"), &text);
        };
        assert_eq!(count(), 0);
        killed(&first, 2);
        killed(&second, 3);
        assert_eq!(count(), 5);
        // Written down, and not gone: as after a death in between.
        Tally { gone: 0, going: Some((first.as_str().to_owned(), 2)) }.write(&tally(&tree)).unwrap();
        assert_eq!(count(), 5);
        tree.remove_process(&first);
        assert_eq!(count(), 5);
        // Recorded folders hold files, so that they stay where the kernel's would go.
        let _ = remove(&tree.place(), &tally(&tree), &second);
        assert_eq!(
            Tally::read(&tally(&tree)).unwrap(),
            Tally { gone: 2, going: Some((second.as_str().to_owned(), 3)) }
        );
        assert_eq!(count(), 5);
        tree.remove_process(&second);
        assert_eq!(count(), 5);
    }

    #[test]
    fn a_group_where_something_runs_stays_and_so_does_one_that_is_kept() {
        let (tree, kept, busy) = (Recorded::v1(), ProcessUid::generate(), ProcessUid::generate());
        tree.prepare_process(&kept);
        tree.prepare_process(&busy);
        tree.write(&format!("pids/P/{OWN}{busy}/cgroup.procs"), "4712\n");
        assert!(remove_ended(&tree.place(), &tally(&tree), |uid| *uid == kept).unwrap());
        assert_eq!(tree.place().processes().unwrap().len(), 2);
        assert!(!remove_ended(&tree.gone(), &tally(&tree), |_| false).unwrap());
    }
}
