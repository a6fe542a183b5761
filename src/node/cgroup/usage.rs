//! Figures of a place, read from its groups.

use super::reading::{number, row, table};
use super::{Controller, Group, Place, Version, is_gone, limits, own};
use gardend_controller::ports::{CpuUsage, MemoryUsage, PidUsage};
use std::io;
use std::path::Path;

/// Memory. All that is below the place counts.
///
/// # Errors
/// `NotFound` where the place is gone. So for each of these.
pub fn memory(place: &Place<'_>) -> io::Result<MemoryUsage> {
    let Some(group) = place.group(Controller::Memory) else { return Ok(MemoryUsage::default()) };
    let folder = &group.folder;
    let mut stat = table(folder, "memory.stat")?;
    let of = |name: &str| stat.get(name).copied().unwrap_or(0);
    let (used, droppable) = match group.version {
        Version::V1 => {
            let with_swap =
                or(number(folder, "memory.memsw.usage_in_bytes"), || number(folder, "memory.usage_in_bytes"));
            (with_swap?, of("total_inactive_file"))
        }
        Version::V2 => {
            let swap = or(number(folder, "memory.swap.current"), || Ok(0))?;
            (number(folder, "memory.current")?.saturating_add(swap), of("inactive_file"))
        }
    };
    let toward_limit = used.saturating_sub(droppable);
    if group.version == Version::V1 {
        // What a client takes for the container's own is in several groups here.
        let run = place.run().existing(Controller::Memory);
        let limit = run.as_ref().map(|run| run.folder.clone());
        let own = place.processes_in(Controller::Memory)?;
        let own = own.iter().filter_map(|uid| place.process(uid).group(Controller::Memory)).collect();
        for group in run.into_iter().chain::<Vec<_>>(own) {
            let further = match table(&group.folder, "memory.stat") {
                // A process's, which has ended meanwhile.
                Err(error) if is_gone(&error) => continue,
                further => further?,
            };
            for (name, value) in further {
                if name.starts_with("hierarchical_") {
                    if limit.as_ref() == Some(&group.folder) {
                        stat.insert(name, value);
                    }
                } else if !name.starts_with("total_") {
                    let whole = stat.entry(name).or_default();
                    *whole = whole.saturating_add(value);
                }
            }
        }
    }
    Ok(MemoryUsage { stat, toward_limit })
}

/// Processor time, in nanoseconds.
#[allow(missing_docs)]
pub fn cpu(place: &Place<'_>) -> io::Result<CpuUsage> {
    let Some(Group { version, folder }) = place.group(Controller::CpuAccounting) else {
        return Ok(CpuUsage::default());
    };
    match version {
        Version::V1 => Ok(CpuUsage {
            total: number(&folder, "cpuacct.usage")?,
            user: number(&folder, "cpuacct.usage_user")?,
            system: number(&folder, "cpuacct.usage_sys")?,
        }),
        Version::V2 => {
            let stat = table(&folder, "cpu.stat")?;
            let nanoseconds = |name: &str| stat.get(name).copied().unwrap_or(0).saturating_mul(1000);
            let [total, user, system] = ["usage_usec", "user_usec", "system_usec"].map(nanoseconds);
            Ok(CpuUsage { total, user, system })
        }
    }
}

/// Processes and threads but init.
#[allow(missing_docs)]
pub fn pids(place: &Place<'_>) -> io::Result<PidUsage> {
    let Some(group) = place.group(Controller::Pids) else { return Ok(PidUsage::default()) };
    let current = number(&group.folder, "pids.current")?.saturating_sub(1);
    Ok(PidUsage { current, max: limits::pids_of(&place.run())?.unwrap_or(0) })
}

/// Processes and threads of a process that has a group of its own.
#[allow(missing_docs)]
pub fn pids_of_process(own: &Place<'_>) -> io::Result<PidUsage> {
    let Some(group) = own.group(Controller::Pids) else { return Ok(PidUsage::default()) };
    Ok(PidUsage { current: number(&group.folder, "pids.current")?, max: limits::pids_of(own)?.unwrap_or(0) })
}

/// What the kernel has killed for want of memory. `tally` is the place's file of those that were
/// killed in groups which have gone.
#[allow(missing_docs)]
pub fn oom_kills(place: &Place<'_>, tally: &Path) -> io::Result<u64> {
    let Some(group) = place.group(Controller::Memory) else { return Ok(0) };
    match group.version {
        // Each group counts its own there.
        Version::V1 => {
            let place_itself = row(&group.folder, "memory.oom_control", "oom_kill")?;
            let run = place.run().existing(Controller::Memory);
            let run = run.map_or(Ok(0), |run| row(&run.folder, "memory.oom_control", "oom_kill"))?;
            Ok(place_itself.saturating_add(run).saturating_add(own::kills(place, tally)?))
        }
        Version::V2 => row(&group.folder, "memory.events", "oom_kill"),
    }
}

/// The second where the first is not there.
fn or(first: io::Result<u64>, second: impl FnOnce() -> io::Result<u64>) -> io::Result<u64> {
    match first {
        Err(error) if is_gone(&error) => second(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorded::Recorded;
    use super::*;

    const USED: u64 = 5_242_880 + 524_288 - 2_097_152;

    #[test]
    fn what_counts_towards_a_limit_is_alike_on_both_versions() {
        for tree in [Recorded::v1(), Recorded::v2()] {
            assert_eq!(memory(&tree.place()).unwrap().toward_limit, USED);
        }
    }

    #[test]
    fn every_figure_that_the_kernel_gives_is_there_by_its_name() {
        let v1 = memory(&Recorded::v1().place()).unwrap().stat;
        assert_eq!((v1["total_rss"], v1["rss"], v1["total_inactive_file"]), (1_703_936, 131_072, 2_097_152));
        assert_eq!(v1["hierarchical_memory_limit"], 9_223_372_036_854_771_712);
        let v2 = memory(&Recorded::v2().place()).unwrap().stat;
        assert_eq!((v2["anon"], v2["file"], v2["swapcached"], v2["pgmajfault"]), (1_703_936, 3_145_728, 4096, 1));
    }

    #[test]
    fn figures_of_a_limited_place_are_those_of_both_its_groups() {
        let tree = Recorded::v1();
        tree.prepare_run(&["memory", "pids"]);
        let stat = memory(&tree.place()).unwrap().stat;
        assert_eq!((stat["rss"], stat["cache"]), (131_072 + 1_572_864, 3_145_728));
        assert_eq!((stat["total_rss"], stat["hierarchical_memory_limit"]), (1_703_936, 67_108_864));
        assert_eq!(pids(&tree.place()).unwrap(), PidUsage { current: 2, max: 0 });
        tree.write("pids/P/run/pids.max", "40\n");
        assert_eq!(pids(&tree.place()).unwrap().max, 40);
    }

    #[test]
    fn processor_time_is_in_nanoseconds() {
        let expected = CpuUsage { total: 31_415_926, user: 21_000_000, system: 10_415_926 };
        assert_eq!(cpu(&Recorded::v1().place()).unwrap(), expected);
        let expected = CpuUsage { total: 31_415_000, user: 21_000_000, system: 10_415_000 };
        assert_eq!(cpu(&Recorded::v2().place()).unwrap(), expected);
    }

    #[test]
    fn init_is_not_counted_among_the_processes() {
        for tree in [Recorded::v1(), Recorded::v2()] {
            assert_eq!(pids(&tree.place()).unwrap(), PidUsage { current: 2, max: 0 });
        }
    }

    #[test]
    fn kills_of_the_place_and_of_run_add_up() {
        let tree = Recorded::v1();
        assert_eq!(oom_kills(&tree.place(), Path::new("/none")).unwrap(), 0);
        tree.prepare_run(&["memory"]);
        tree.write("memory/P/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
        assert_eq!(oom_kills(&tree.place(), Path::new("/none")).unwrap(), 3);
        assert_eq!(oom_kills(&Recorded::v2().place(), Path::new("/none")).unwrap(), 2);
    }

    #[test]
    fn a_place_that_is_gone_is_not_found() {
        for tree in [Recorded::v1(), Recorded::v2()] {
            let gone = tree.gone();
            let kinds = [
                memory(&gone).unwrap_err().kind(),
                cpu(&gone).unwrap_err().kind(),
                pids(&gone).unwrap_err().kind(),
                oom_kills(&gone, Path::new("/none")).unwrap_err().kind(),
            ];
            assert_eq!(kinds, [io::ErrorKind::NotFound; 4]);
        }
    }
}
