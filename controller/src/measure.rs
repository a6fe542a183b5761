//! Figures and limits of containers, for clients: asked of the node, never kept.

use crate::error::Error;
use crate::grace::Busy;
use crate::ports::{Measured, NodeError, NodeErrorKind, Usage};
use crate::record::{ContainerSpec, Limits, ProcessRecord, SandboxId};
use crate::service::Controller;
use crate::state::{Container, State};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

/// How long a node may take to tell its figures.
const DEADLINE: Duration = Duration::from_secs(5);

/// What a container uses, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    /// How long ago it was asked for.
    pub age: Duration,
    /// The processor shares that it asked for; 0 where it asked for none.
    pub cpu_shares: u64,
    /// What it uses now.
    pub usage: Usage,
}

/// What is taken out of the state before the node is asked.
struct Asked {
    age: Duration,
    cpu_shares: u64,
    measured: Measured,
}

impl Controller {
    /// What each of these uses, of all at once. One that is not there is an error of its own. A
    /// process with an image of its own can be asked of by its id, as if it were a container.
    pub async fn bulk_metrics(&self, handles: Vec<String>) -> BTreeMap<String, Result<Figures, Error>> {
        let mut answers = BTreeMap::new();
        let mut asked = Vec::new();
        {
            let state = self.shared.state();
            for handle in handles.into_iter().collect::<BTreeSet<_>>() {
                match asked_of(&state, &handle) {
                    Ok(one) => asked.push((handle, one)),
                    Err(error) => drop(answers.insert(handle, Err(error))),
                }
            }
        }
        let measured = asked.iter().map(|(_, one)| one.measured.clone()).collect();
        let usages = self.usage(measured).await;
        for ((handle, one), usage) in asked.into_iter().zip(usages) {
            let figures = usage.map(|usage| Figures { age: one.age, cpu_shares: one.cpu_shares, usage });
            let figures = figures.map_err(|error| self.what_became_of(&handle, &one.measured.sandbox, error));
            answers.insert(handle, figures);
        }
        answers
    }

    /// What one uses.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`], also for one that goes away meanwhile; [`Error::NotReady`].
    pub async fn metrics(&self, handle: &str) -> Result<Figures, Error> {
        let _busy = Busy::on(&self.shared, handle)?;
        let mut answers = self.bulk_metrics(vec![handle.to_owned()]).await;
        answers.remove(handle).unwrap_or_else(|| Err(Error::ContainerNotFound(handle.to_owned())))
    }

    /// The limits that are in force on one, as the node has them. Without a network that of
    /// bandwidth is as it was asked for: there is nothing that it could hold back.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`], also for one that goes away meanwhile; [`Error::NotReady`].
    pub async fn limits(&self, handle: &str) -> Result<Limits, Error> {
        let _busy = Busy::on(&self.shared, handle)?;
        let (sandbox, uid, spec, networked) = {
            let state = self.shared.state();
            let container = state.holder(handle)?;
            let sandbox = container.ready_place()?.clone();
            (sandbox, container.record.uid.clone(), limits_alone(container), container.networked)
        };
        let read = async {
            let limits = self.shared.node.resources.in_force(&sandbox, &uid, &spec).await?;
            if !networked {
                return Ok(limits);
            }
            let (bandwidth_rate, bandwidth_burst) = self.shared.node.network.bandwidth(&sandbox).await?;
            Ok(Limits { bandwidth_rate, bandwidth_burst, ..limits })
        };
        let read = tokio::time::timeout(DEADLINE, read).await.unwrap_or_else(|_| Err(no_answer()));
        read.map_err(|error| self.what_became_of(handle, &sandbox, error))
    }

    async fn usage(&self, of: Vec<Measured>) -> Vec<Result<Usage, NodeError>> {
        let many = of.len();
        let asked = tokio::time::timeout(DEADLINE, self.shared.node.metrics.usage(of)).await;
        asked.unwrap_or_else(|_| (0..many).map(|_| Err(no_answer())).collect())
    }

    /// A container whose place did not answer: gone with it, or being made again?
    fn what_became_of(&self, handle: &str, sandbox: &SandboxId, error: NodeError) -> Error {
        let state = self.shared.state();
        match state.holder(handle) {
            Err(gone) => gone,
            Ok(container) => match container.ready_place() {
                Ok(now) if now == sandbox => Error::Node(error),
                Ok(_) => Error::NotReady {
                    handle: container.record.handle.clone(),
                    reason: "its place has just been made again; ask again".into(),
                },
                Err(not_ready) => not_ready,
            },
        }
    }
}

fn asked_of(state: &State, handle: &str) -> Result<Asked, Error> {
    let unknown = match state.holder(handle) {
        Ok(container) => return of_container(container),
        Err(unknown) => unknown,
    };
    process_with_image(state, handle).unwrap_or(Err(unknown))
}

fn of_container(container: &Container) -> Result<Asked, Error> {
    let sandbox = container.ready_place()?.clone();
    let record = &container.record;
    let rootfs = record.spec.rootfs.clone();
    let measured = Measured { sandbox, container: record.uid.clone(), rootfs, process: None };
    Ok(Asked { age: since(record.created_at), cpu_shares: record.spec.limits.shares(), measured })
}

/// The youngest of that id that runs: ids are their containers' own.
fn process_with_image(state: &State, id: &str) -> Option<Result<Asked, Error>> {
    let named = |process: &&ProcessRecord| process.id.as_str() == id && process.spec.image.is_some();
    let alive = state.processes.values().filter(|process| process.alive()).map(|process| &process.record);
    let process = alive.filter(named).max_by_key(|process| process.created_at)?;
    let container = state.containers.get(&process.container)?;
    Some(of_container(container).map(|of| {
        let rootfs = process.spec.image.as_ref().map_or(of.measured.rootfs, |image| image.rootfs.clone());
        let shares = if process.spec.limits.any() { process.spec.limits.shares() } else { of.cpu_shares };
        let measured = Measured { rootfs, process: Some(process.uid.clone()), ..of.measured };
        Asked { age: process.created_at.map_or(of.age, since), cpu_shares: shares, measured }
    }))
}

/// A clock that was set back makes nobody younger than nothing.
fn since(then: SystemTime) -> Duration {
    SystemTime::now().duration_since(then).unwrap_or_default()
}

fn limits_alone(container: &Container) -> ContainerSpec {
    let spec = &container.record.spec;
    ContainerSpec { limits: spec.limits, privileged: spec.privileged, ..ContainerSpec::default() }
}

fn no_answer() -> NodeError {
    let waited = DEADLINE.as_secs();
    NodeError::new(NodeErrorKind::Unavailable, format!("the kernel did not tell within {waited} s; ask again"))
}
