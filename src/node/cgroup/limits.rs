//! Limits: written to a place's groups, and read back from them.

use super::reading::{Figure, figure};
use super::{Controller, Group, INIT, Place, RUN, Version, is_gone, write};
use gardend_controller::record::{ContainerSpec, Limits};
use std::fs;
use std::io;
use std::path::Path;

/// The kernel knows no more processes (PID_MAX_LIMIT); it refuses a larger limit.
const MOST_PIDS: u64 = 4 * 1024 * 1024;
/// Whoever is root of the machine within a place may make groups beside `run`, as container
/// runtimes do. The place as a whole is held to its limit and this, which is init's.
pub(super) const INIT_ROOM: u64 = 32 << 20;
/// What the kernel takes for shares (v1), and for a weight (v2).
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// Which limits this machine cannot keep, in words.
///
/// # Errors
/// Names the limit and what is missing.
pub fn check(place: &Place<'_>, limits: &Limits) -> Result<(), String> {
    let asked = [
        ("memory_limits.limit_in_bytes", limits.memory_bytes, Controller::Memory),
        ("cpu_limits", limits.shares(), Controller::Cpu),
        ("pid_limits.max", limits.pids_max, Controller::Pids),
    ];
    for (name, value, controller) in asked {
        if value > 0 && place.group(controller).is_none() {
            return Err(format!(
                "limits.{name}: this node's kernel has no cgroup controller {:?}; ask again without it, or enable it",
                controller.name()
            ));
        }
    }
    Ok(())
}

/// Puts limits in force on a place where nothing but init runs. Any number of times.
///
/// # Errors
/// What was written where, and what the kernel said.
pub fn apply(place: &Place<'_>, spec: &ContainerSpec) -> io::Result<()> {
    let limits = &spec.limits;
    if limits.memory_bytes > 0 {
        group_below(place, RUN, Controller::Memory)?;
        set_memory(&place.run(), limits.memory_bytes)?;
        if spec.privileged {
            set_memory(place, limits.memory_bytes.saturating_add(INIT_ROOM))?;
        }
    }
    if limits.pids_max > 0 {
        group_below(place, RUN, Controller::Pids)?;
        set_pids(&place.run(), limits.pids_max)?;
    }
    if limits.shares() > 0 {
        set_shares(place, limits.shares())?;
    }
    Ok(())
}

/// Limits a group's memory, with swap.
pub(super) fn set_memory(of: &Place<'_>, bytes: u64) -> io::Result<()> {
    let group = there(of, Controller::Memory)?;
    limit_memory(group.version, &group.folder, bytes)
}

/// Limits how many processes and threads a group holds.
pub(super) fn set_pids(of: &Place<'_>, most: u64) -> io::Result<()> {
    let most = if most > MOST_PIDS { "max".to_owned() } else { most.to_string() };
    write(&there(of, Controller::Pids)?.folder, "pids.max", &most)
}

/// Sets a group's share of the processor.
pub(super) fn set_shares(of: &Place<'_>, shares: u64) -> io::Result<()> {
    let group = there(of, Controller::Cpu)?;
    match group.version {
        Version::V1 => write(&group.folder, "cpu.shares", &shares.to_string()),
        Version::V2 => write(&group.folder, "cpu.weight", &weight(shares).to_string()),
    }
}

/// A group's own limit of memory; `None` where it has none, or is not there.
pub(super) fn memory_of(of: &Place<'_>) -> io::Result<Option<u64>> {
    match of.existing(Controller::Memory) {
        Some(group) => or_gone(memory_limit(group.version, &group.folder)),
        None => Ok(None),
    }
}

/// A group's own limit of processes; `None` where it has none, or is not there.
pub(super) fn pids_of(of: &Place<'_>) -> io::Result<Option<u64>> {
    let Some(group) = of.existing(Controller::Pids) else { return Ok(None) };
    or_gone(figure(&group.folder, "pids.max").map(|most| Some(most.or_zero()).filter(|most| *most > 0)))
}

/// On v2 a group may be there for another controller's sake.
fn or_gone(read: io::Result<Option<u64>>) -> io::Result<Option<u64>> {
    match read {
        Err(error) if is_gone(&error) => Ok(None),
        read => read,
    }
}

/// Limits as the kernel has them. Those of disk and network are not the kernel's to tell here.
///
/// # Errors
/// `NotFound` where the place is gone.
pub fn in_force(place: &Place<'_>, asked: &Limits) -> io::Result<Limits> {
    let mut seen = *asked;
    seen.memory_bytes = match group_of_run(place, Controller::Memory)? {
        None => 0,
        Some(group) => memory_limit(group.version, &group.folder)?.unwrap_or(0),
    };
    seen.pids_max = match group_of_run(place, Controller::Pids)? {
        None => 0,
        Some(group) => figure(&group.folder, "pids.max")?.or_zero(),
    };
    let shares = shares(place, asked.shares())?;
    (seen.cpu_weight, seen.cpu_shares) = (shares, shares);
    Ok(seen)
}

/// A group's own limit of memory, if it has one.
pub(super) fn memory_limit(version: Version, folder: &Path) -> io::Result<Option<u64>> {
    // The end of v1's counter, in whole pages (of up to 64 KiB), is no limit.
    const END: u64 = i64::MAX as u64 / 65_536 * 65_536;
    let file = if version == Version::V1 { "memory.limit_in_bytes" } else { "memory.max" };
    Ok(match figure(folder, file)? {
        Figure::Number(bytes) if bytes < END => Some(bytes),
        _ => None,
    })
}

/// The processor shares in force, where some were asked for.
fn shares(place: &Place<'_>, asked: u64) -> io::Result<u64> {
    if asked == 0 {
        return Ok(0);
    }
    let group = there(place, Controller::Cpu)?;
    match group.version {
        Version::V1 => figure(&group.folder, "cpu.shares").map(Figure::or_zero),
        Version::V2 => {
            let seen = figure(&group.folder, "cpu.weight")?.or_zero();
            // Several shares are one weight. What is beyond any weight is the last that is not.
            let kept = asked.clamp(*SHARES.start(), *SHARES.end());
            Ok(if seen == weight(asked) { kept } else { shares_of(seen) })
        }
    }
}

fn limit_memory(version: Version, folder: &Path, bytes: u64) -> io::Result<()> {
    let value = bytes.to_string();
    match version {
        Version::V1 => {
            // Memory with swap is never less than memory: the order depends on what is there.
            let memory = write(folder, "memory.limit_in_bytes", &value);
            match write(folder, "memory.memsw.limit_in_bytes", &value) {
                Err(error) if is_gone(&error) => {
                    memory?;
                    // A kernel that does not count swap: then there is none for this group.
                    write(folder, "memory.swappiness", "0")
                }
                Err(error) => Err(error),
                Ok(()) if memory.is_err() => write(folder, "memory.limit_in_bytes", &value),
                Ok(()) => Ok(()),
            }
        }
        Version::V2 => {
            write(folder, "memory.max", &value)?;
            match write(folder, "memory.swap.max", "0") {
                // A kernel without swap.
                Err(error) if is_gone(&error) => Ok(()),
                other => other,
            }
        }
    }
}

fn there(place: &Place<'_>, controller: Controller) -> io::Result<Group> {
    let missing = || io::Error::other(format!("this machine has no cgroup controller {:?}", controller.name()));
    let group = place.group(controller).ok_or_else(missing)?;
    // What is gone is not to be mistaken for a file that the kernel does not have.
    fs::metadata(&group.folder)?;
    Ok(group)
}

fn group_of_run(place: &Place<'_>, controller: Controller) -> io::Result<Option<Group>> {
    if place.group(controller).is_none() {
        return Ok(None);
    }
    there(place, controller)?;
    let run = place.run().existing(controller);
    // On v2 there may be a `run` for another controller's sake.
    let has_it = |group: &Group| {
        group.version == Version::V1 || group.folder.join(format!("{}.max", controller.name())).exists()
    };
    Ok(run.filter(has_it))
}

/// Makes a group below the place's in a controller's hierarchy, where it is missing.
pub(super) fn group_below(place: &Place<'_>, name: &str, controller: Controller) -> io::Result<()> {
    let group = there(place, controller)?;
    if group.version == Version::V2 {
        hand_down(&group.folder, controller)?;
    }
    make(&group.folder.join(name))
}

/// Groups with limits are leaves, and what is above them holds no process: on v2 what runs in the
/// place so far moves aside. `run` is made too, since from now on nothing can be started in the
/// place's own group.
fn hand_down(place: &Path, controller: Controller) -> io::Result<()> {
    // Forks while they are moved; each round moves what was forked in the one before.
    const ROUNDS: usize = 64;
    let init = place.join(INIT);
    make(&init)?;
    make(&place.join(RUN))?;
    // Counts processor time for every group, without being handed down.
    if controller == Controller::CpuAccounting {
        return Ok(());
    }
    let mut round = 0;
    loop {
        for pid in fs::read_to_string(place.join("cgroup.procs"))?.lines() {
            match write(&init, "cgroup.procs", pid) {
                // Ended meanwhile.
                Err(_) if !Path::new("/proc").join(pid).exists() => {}
                moved => moved?,
            }
        }
        let enabled = fs::read_to_string(place.join("cgroup.subtree_control"))?;
        if enabled.split_ascii_whitespace().any(|name| name == controller.name()) {
            return Ok(());
        }
        match write(place, "cgroup.subtree_control", &format!("+{}", controller.name())) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && round < ROUNDS => round += 1,
            enabled => return enabled,
        }
    }
}

fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(io::Error::new(error.kind(), format!("making the cgroup {}: {error}", folder.display())))
        }
        _ => Ok(()),
    }
}

/// A weight of v2 for shares of v1, as container runtimes convert them.
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(*SHARES.start(), *SHARES.end());
    1 + (shares - 2) * 9_999 / 262_142
}

/// The least shares that are this weight.
fn shares_of(weight: u64) -> u64 {
    2 + (weight.clamp(1, 10_000) - 1).saturating_mul(262_142).div_ceil(9_999)
}

#[cfg(test)]
mod tests {
    use super::super::recorded::Recorded;
    use super::*;
    use gardend_controller::contract::LIMITS;

    fn spec(limits: Limits) -> ContainerSpec {
        ContainerSpec { limits, ..ContainerSpec::default() }
    }

    #[test]
    fn on_v1_memory_and_processes_are_limited_in_run_and_shares_on_the_place() {
        let tree = Recorded::v1();
        tree.prepare_run(&["memory", "pids"]);
        apply(&tree.place(), &spec(LIMITS)).unwrap();
        let bytes = LIMITS.memory_bytes.to_string();
        assert_eq!(tree.read("memory/P/run/memory.limit_in_bytes"), bytes);
        assert_eq!(tree.read("memory/P/run/memory.memsw.limit_in_bytes"), bytes);
        assert_eq!(tree.read("pids/P/run/pids.max"), "40");
        assert_eq!(tree.read("cpu/P/cpu.shares"), "512");
        assert_eq!(tree.read("memory/P/memory.limit_in_bytes").trim(), "9223372036854771712");
        let seen = in_force(&tree.place(), &LIMITS).unwrap();
        assert_eq!((seen.memory_bytes, seen.pids_max, seen.shares()), (LIMITS.memory_bytes, 40, 512));
    }

    #[test]
    fn on_v1_without_swap_accounting_a_limited_group_does_not_swap() {
        let tree = Recorded::v1();
        tree.prepare_run(&["memory"]);
        tree.remove("memory/P/run/memory.memsw.limit_in_bytes");
        apply(&tree.place(), &spec(Limits { memory_bytes: 1 << 20, ..Limits::default() })).unwrap();
        assert_eq!(tree.read("memory/P/run/memory.swappiness"), "0");
    }

    #[test]
    fn a_place_whose_root_is_the_machines_is_limited_as_a_whole_too() {
        let tree = Recorded::v1();
        tree.prepare_run(&["memory", "pids"]);
        let spec = ContainerSpec { privileged: true, ..spec(LIMITS) };
        apply(&tree.place(), &spec).unwrap();
        let whole = (LIMITS.memory_bytes + INIT_ROOM).to_string();
        assert_eq!(tree.read("memory/P/memory.limit_in_bytes"), whole);
    }

    #[test]
    fn on_v2_init_moves_aside_and_the_controllers_are_handed_down() {
        let tree = Recorded::v2();
        tree.prepare_run(&[""]);
        apply(&tree.place(), &spec(LIMITS)).unwrap();
        assert_eq!(tree.read("P/init/cgroup.procs"), "4711");
        assert_eq!(tree.read("P/run/memory.max"), LIMITS.memory_bytes.to_string());
        assert_eq!(tree.read("P/run/memory.swap.max"), "0");
        assert_eq!(tree.read("P/run/pids.max"), "40");
        assert_eq!(tree.read("P/cpu.weight"), weight(512).to_string());
        // The last that was enabled: a recorded file does not add up as the kernel's does.
        assert_eq!(tree.read("P/cgroup.subtree_control"), "+pids");
        let seen = in_force(&tree.place(), &LIMITS).unwrap();
        assert_eq!((seen.memory_bytes, seen.pids_max, seen.shares()), (LIMITS.memory_bytes, 40, 512));
    }

    #[test]
    fn a_place_without_limits_has_none_and_one_that_is_gone_is_not_found() {
        for tree in [Recorded::v1(), Recorded::v2()] {
            let seen = in_force(&tree.place(), &Limits::default()).unwrap();
            assert_eq!(seen, Limits::default());
            assert!(tree.place().to_join().is_empty());
            let gone = in_force(&tree.gone(), &Limits::default()).unwrap_err();
            assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn a_controller_that_is_not_there_is_named_in_the_refusal() {
        let tree = Recorded::without_controllers();
        let refused = check(&tree.place(), &Limits { pids_max: 1, ..Limits::default() }).unwrap_err();
        assert!(refused.contains("pid_limits.max") && refused.contains("\"pids\""), "{refused}");
        assert_eq!(check(&tree.place(), &Limits::default()), Ok(()));
    }

    #[test]
    fn shares_come_back_from_their_weight() {
        assert_eq!((weight(2), weight(1024), weight(262_144), weight(0), weight(u64::MAX)), (1, 39, 10_000, 1, 10_000));
        for shares in [2, 100, 512, 1024, 262_144] {
            let back = shares_of(weight(shares));
            assert_eq!(weight(back), weight(shares), "{shares} came back as {back}");
        }
    }
}
