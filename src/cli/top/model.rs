//! What is known and what is to be shown of it: plain values, without a terminal and without a server.
//!
//! A [`Sample`] is what the server told at one moment; rates come of two of them. The rows on the
//! screen follow from the newest, the filter, the order, and which containers are unfolded.

use clap::ValueEnum;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What can be sorted by, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Column {
    Handle,
    State,
    Cpu,
    Memory,
    Rx,
    Tx,
    Pids,
    Age,
}

impl Column {
    pub(super) const ALL: [Self; 8] =
        [Self::Handle, Self::State, Self::Cpu, Self::Memory, Self::Rx, Self::Tx, Self::Pids, Self::Age];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Handle => "HANDLE",
            Self::State => "STATE",
            Self::Cpu => "CPU %",
            Self::Memory => "MEMORY / LIMIT",
            Self::Rx => "NET IN/s",
            Self::Tx => "NET OUT/s",
            Self::Pids => "PIDS",
            Self::Age => "AGE",
        }
    }

    /// What is most interesting of it comes first: names from the beginning, figures from the largest.
    fn begins_with_the_largest(self) -> bool {
        !matches!(self, Self::Handle | Self::State)
    }
}

/// What one container or process has used so far, and uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Used {
    pub(super) cpu: Duration,
    pub(super) memory: u64,
    pub(super) memory_limit: Option<u64>,
    pub(super) network: Option<(u64, u64)>,
    pub(super) pids: u64,
    pub(super) age: Duration,
}

/// A container as the server told of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) state: String,
    /// `None`: it could not be told just then.
    pub(super) used: Option<Used>,
    /// By their ids; figures of those alone that have some of their own.
    pub(super) processes: BTreeMap<String, Option<Used>>,
}

/// What the server told at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) containers: BTreeMap<String, Seen>,
}

/// What is shown of one container or process.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) cpu_percent: Option<f64>,
    pub(super) memory: Option<u64>,
    pub(super) memory_limit: Option<u64>,
    pub(super) rx_rate: Option<f64>,
    pub(super) tx_rate: Option<f64>,
    pub(super) pids: Option<u64>,
    pub(super) age: Option<Duration>,
}

/// A line: a container, or one of its processes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) name: Name,
    pub(super) state: String,
    pub(super) figures: Figures,
    /// Of a container: how many processes run.
    pub(super) processes: usize,
}

/// What a line is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) handle: String,
    pub(super) process: Option<String>,
}

/// What of the screen the keys go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    List,
    Filter,
    Help,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) target: String,
    pub(super) sort: Column,
    pub(super) reversed: bool,
    pub(super) filter: String,
    pub(super) mode: Mode,
    pub(super) paused: bool,
    pub(super) unfolded: BTreeSet<String>,
    pub(super) selected: Option<Name>,
    /// Why the server did not tell, while it does not.
    pub(super) fault: Option<String>,
    /// What there is to say once.
    pub(super) notice: Option<String>,
    /// Lines that fit; the view knows.
    pub(super) page: usize,
    earlier: Option<Sample>,
    later: Option<Sample>,
}

impl Model {
    pub(super) fn new(sort: Column, filter: String, target: String) -> Self {
        Self {
            target,
            sort,
            reversed: false,
            filter,
            mode: Mode::List,
            paused: false,
            unfolded: BTreeSet::new(),
            selected: None,
            fault: None,
            notice: None,
            page: 1,
            earlier: None,
            later: None,
        }
    }

    /// The server has told something, or not.
    pub(super) fn heard(&mut self, told: Result<Sample, String>) {
        match told {
            Err(fault) => self.fault = Some(fault),
            Ok(sample) => {
                self.fault = None;
                if !self.paused {
                    self.earlier = self.later.replace(sample);
                }
            }
        }
    }

    /// Nothing has been told yet.
    pub(super) fn is_empty(&self) -> bool {
        self.later.is_none()
    }

    /// Containers that there are, shown or not.
    pub(super) fn containers(&self) -> usize {
        self.later.as_ref().map_or(0, |sample| sample.containers.len())
    }

    /// The processes of a container, shown or not.
    pub(super) fn processes(&self, handle: &str) -> Vec<String> {
        let seen = self.later.as_ref().and_then(|sample| sample.containers.get(handle));
        seen.map_or_else(Vec::new, |seen| seen.processes.keys().cloned().collect())
    }

    /// What is shown, in order.
    pub(super) fn rows(&self) -> Vec<Row> {
        let Some(later) = &self.later else { return Vec::new() };
        let mut containers: Vec<_> =
            later.containers.iter().filter(|(handle, seen)| self.shows(handle, seen)).collect();
        let rows: BTreeMap<&String, Row> =
            containers.iter().map(|(handle, seen)| (*handle, self.row(handle, seen))).collect();
        containers.sort_by(|(a, _), (b, _)| {
            let order = compare(self.sort, &rows[a], &rows[b]);
            let order = if self.sort.begins_with_the_largest() != self.reversed { order.reverse() } else { order };
            order.then_with(|| a.cmp(b))
        });
        let mut all = Vec::new();
        for (handle, seen) in containers {
            all.push(rows[handle].clone());
            if self.unfolded.contains(handle) {
                all.extend(seen.processes.iter().map(|(id, used)| self.process(handle, id, used.as_ref())));
            }
        }
        all
    }

    fn shows(&self, handle: &str, seen: &Seen) -> bool {
        let wanted = self.filter.to_lowercase();
        let holds = |text: &str| text.to_lowercase().contains(&wanted);
        wanted.is_empty() || holds(handle) || holds(&seen.state) || seen.processes.keys().any(|id| holds(id))
    }

    fn row(&self, handle: &str, seen: &Seen) -> Row {
        let before = self.before().and_then(|(sample, time)| Some((sample.containers.get(handle)?.used?, time)));
        Row {
            name: Name { handle: handle.to_owned(), process: None },
            state: seen.state.clone(),
            figures: seen.used.as_ref().map_or_else(Figures::default, |used| figures(used, before)),
            processes: seen.processes.len(),
        }
    }

    fn process(&self, handle: &str, id: &str, used: Option<&Used>) -> Row {
        let before = self.before().and_then(|(sample, time)| {
            let used = (*sample.containers.get(handle)?.processes.get(id)?)?;
            Some((used, time))
        });
        Row {
            name: Name { handle: handle.to_owned(), process: Some(id.to_owned()) },
            state: "running".to_owned(),
            figures: used.map_or_else(Figures::default, |used| figures(used, before)),
            processes: 0,
        }
    }

    /// The sample before, and how long before it was.
    fn before(&self) -> Option<(&Sample, Duration)> {
        let (earlier, later) = (self.earlier.as_ref()?, self.later.as_ref()?);
        Some((earlier, later.at.saturating_duration_since(earlier.at)))
    }

    /// Where the selected line is among these; the first where it is gone.
    pub(super) fn position(&self, rows: &[Row]) -> Option<usize> {
        let Some(selected) = &self.selected else { return (!rows.is_empty()).then_some(0) };
        let exactly = rows.iter().position(|row| row.name == *selected);
        // A process that has ended leaves the selection with its container.
        let container = || rows.iter().position(|row| row.name.handle == selected.handle);
        exactly.or_else(container).or((!rows.is_empty()).then_some(0))
    }

    /// The selected line.
    pub(super) fn selected_row(&self) -> Option<Row> {
        let mut rows = self.rows();
        self.position(&rows).map(|at| rows.swap_remove(at))
    }
}

/// Rates need two looks; of the first there are none.
fn figures(used: &Used, before: Option<(Used, Duration)>) -> Figures {
    let before = before.filter(|(_, time)| !time.is_zero());
    let rate = |now: u64, then: u64, time: Duration| now.saturating_sub(then) as f64 / time.as_secs_f64();
    let network = |pick: fn((u64, u64)) -> u64| {
        let (now, (before, time)) = (used.network?, before?);
        Some(rate(pick(now), pick(before.network?), time))
    };
    Figures {
        cpu_percent: before.map(|(before, time)| {
            let worked = used.cpu.saturating_sub(before.cpu);
            100.0 * worked.as_secs_f64() / time.as_secs_f64()
        }),
        memory: Some(used.memory),
        memory_limit: used.memory_limit,
        rx_rate: network(|(rx, _)| rx),
        tx_rate: network(|(_, tx)| tx),
        pids: Some(used.pids),
        age: Some(used.age),
    }
}

/// The smaller first; what is not known is smaller than anything.
fn compare(by: Column, a: &Row, b: &Row) -> Ordering {
    let (x, y) = (&a.figures, &b.figures);
    let floats = |x: Option<f64>, y: Option<f64>| x.unwrap_or(-1.0).total_cmp(&y.unwrap_or(-1.0));
    match by {
        Column::Handle => a.name.handle.cmp(&b.name.handle),
        Column::State => a.state.cmp(&b.state),
        Column::Cpu => floats(x.cpu_percent, y.cpu_percent),
        Column::Memory => x.memory.cmp(&y.memory),
        Column::Rx => floats(x.rx_rate, y.rx_rate),
        Column::Tx => floats(x.tx_rate, y.tx_rate),
        Column::Pids => x.pids.cmp(&y.pids),
        Column::Age => x.age.cmp(&y.age),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A container that has used so many milliseconds and MiB, with these processes.
    pub(in super::super) fn seen(cpu_ms: u64, memory: u64, processes: &[&str]) -> Seen {
        let used = Used {
            cpu: Duration::from_millis(cpu_ms),
            memory: memory << 20,
            network: Some((cpu_ms * 1000, 0)),
            pids: processes.len() as u64,
            age: Duration::from_secs(memory * 60),
            memory_limit: None,
        };
        let processes = processes.iter().map(|id| ((*id).to_owned(), None)).collect();
        Seen { state: "active".into(), used: Some(used), processes }
    }

    /// A model that has heard of these twice, a second apart, the second time with twice the use.
    pub(in super::super) fn model(containers: &[(&str, Seen)]) -> Model {
        let mut model = Model::new(Column::Cpu, String::new(), "127.0.0.1:7777".into());
        let at = Instant::now();
        let sample = |at, times: u32| Sample {
            at,
            containers: containers
                .iter()
                .map(|(handle, seen)| {
                    let mut seen = seen.clone();
                    if let Some(used) = &mut seen.used {
                        used.cpu *= times;
                        used.network = used.network.map(|(rx, tx)| (rx * u64::from(times), tx));
                    }
                    ((*handle).to_owned(), seen)
                })
                .collect(),
        };
        model.heard(Ok(sample(at, 1)));
        model.heard(Ok(sample(at + Duration::from_secs(1), 2)));
        model
    }

    fn handles(model: &Model) -> Vec<String> {
        model.rows().into_iter().map(|row| row.name.process.unwrap_or(row.name.handle)).collect()
    }

    #[test]
    fn rates_come_of_two_looks() {
        let model = model(&[("a", seen(500, 1, &[]))]);
        let figures = model.rows().remove(0).figures;
        assert_eq!((figures.cpu_percent, figures.rx_rate, figures.tx_rate), (Some(50.0), Some(500_000.0), Some(0.0)));
        let mut first = Model::new(Column::Cpu, String::new(), String::new());
        first.heard(Ok(Sample { at: Instant::now(), containers: [("a".to_owned(), seen(1, 1, &[]))].into() }));
        let figures = first.rows().remove(0).figures;
        assert_eq!((figures.cpu_percent, figures.rx_rate, figures.memory), (None, None, Some(1 << 20)));
    }

    #[test]
    fn every_column_sorts_and_can_be_reversed() {
        let mut model = model(&[("a", seen(1, 30, &["p", "q"])), ("b", seen(9, 10, &[])), ("c", seen(5, 20, &["r"]))]);
        for (column, order) in [
            (Column::Handle, ["a", "b", "c"]),
            (Column::State, ["a", "b", "c"]),
            (Column::Cpu, ["b", "c", "a"]),
            (Column::Memory, ["a", "c", "b"]),
            (Column::Rx, ["b", "c", "a"]),
            (Column::Tx, ["a", "b", "c"]),
            (Column::Pids, ["a", "c", "b"]),
            (Column::Age, ["a", "c", "b"]),
        ] {
            (model.sort, model.reversed) = (column, false);
            assert_eq!(handles(&model), order, "{column:?}");
            model.reversed = true;
            let equal = matches!(column, Column::State | Column::Tx);
            let mut reversed = order;
            if !equal {
                reversed.reverse();
            }
            assert_eq!(handles(&model), reversed, "{column:?}, reversed");
        }
    }

    #[test]
    fn a_filter_looks_at_handles_states_and_processes() {
        let mut model = model(&[("web", seen(1, 1, &["server"])), ("db", seen(2, 1, &["postgres"]))]);
        for (filter, shown) in [("WEB", &["web"][..]), ("post", &["db"]), ("active", &["db", "web"]), ("nothing", &[])]
        {
            filter.clone_into(&mut model.filter);
            assert_eq!(handles(&model), shown, "{filter}");
        }
    }

    #[test]
    fn an_unfolded_container_shows_its_processes_and_keeps_the_selection_when_they_end() {
        let mut model = model(&[("web", seen(1, 1, &["p1", "p2"]))]);
        model.unfolded.insert("web".into());
        assert_eq!(handles(&model), ["web", "p1", "p2"]);
        model.selected = Some(Name { handle: "web".into(), process: Some("p2".into()) });
        assert_eq!(model.position(&model.rows()), Some(2));
        let containers = [("web".to_owned(), seen(3, 1, &[]))].into();
        model.heard(Ok(Sample { at: Instant::now() + Duration::from_secs(9), containers }));
        assert_eq!(model.position(&model.rows()), Some(0));
    }

    #[test]
    fn a_pause_keeps_what_is_shown_and_a_fault_is_forgotten_when_the_server_is_back() {
        let mut model = model(&[("a", seen(1, 1, &[]))]);
        model.paused = true;
        model.heard(Err("it is away".into()));
        assert_eq!((handles(&model), model.fault.as_deref()), (vec!["a".to_owned()], Some("it is away")));
        model.heard(Ok(Sample { at: Instant::now(), containers: BTreeMap::new() }));
        assert_eq!((handles(&model), model.fault.as_deref()), (vec!["a".to_owned()], None));
    }
}
