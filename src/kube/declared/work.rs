//! What takes its time: one step for one object, by the controller and the API server.
//!
//! Promises: the finalizer is there before anything is made, and goes once nothing is left; dropped
//! at whatever instant, a container that was being made is undone. Leaves to others: which step is
//! due, and when it is tried again.

use super::problem::{Failure, Problem};
use super::secrets::{Secrets, credentials, named};
use super::status::{Standing, status};
use super::step::Step;
use super::wanted;
use crate::kube::client::{Trouble, ask};
use crate::kube::mirror::{Budget, by_us, whole};
use crate::kube::options::Options;
use gardend_controller::record::{Declaration, DeclaredProcess};
use gardend_controller::{Controller, DeclaredContainer, Error, Redeclaration};
use gardend_crds::{self as crds, GardenContainer, GardenContainerSpec, GardenContainerStatus};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch};
use kube::{Client, ResourceExt};
use std::collections::BTreeMap;

/// What works, in one namespace. Cheap to clone.
#[derive(Clone)]
pub(super) struct Worker {
    controller: Controller,
    containers: Api<GardenContainer>,
    secrets: Api<Secret>,
    budget: Budget,
    options: Options,
}

impl Worker {
    pub(super) fn new(
        client: Client,
        namespace: &str,
        controller: Controller,
        budget: Budget,
        options: Options,
    ) -> Self {
        let containers = Api::namespaced(client.clone(), namespace);
        Self { controller, containers, secrets: Api::namespaced(client, namespace), budget, options }
    }

    /// Does it. The object, where it was written.
    pub(super) async fn work(
        &self,
        step: Step,
        object: Option<GardenContainer>,
        current: Option<DeclaredContainer>,
    ) -> Result<Option<GardenContainer>, Failure> {
        match (step, object, current) {
            (Step::Destroy(by), _, _) => {
                self.controller.undeclare(&by).await?;
                Ok(None)
            }
            (Step::Release, Some(object), _) => self.release(&object).await,
            (Step::Make, Some(object), _) => self.make(object).await,
            (Step::Keep, Some(object), _) => Ok(Some(self.finalizers(&object, true).await?)),
            (Step::Change, Some(object), Some(current)) => {
                self.change(&object, &current).await?;
                Ok(None)
            }
            (Step::Recreate(fields), Some(object), Some(current)) => self.recreate(object, &current, &fields).await,
            _ => Ok(None),
        }
    }

    async fn make(&self, object: GardenContainer) -> Result<Option<GardenContainer>, Failure> {
        // All that can be refused before the object is touched.
        if self.controller.draining() {
            return Err(Error::Draining.into());
        }
        let spec = &object.spec;
        let image = wanted::image(spec)?;
        let of_processes = spec.processes.iter().flat_map(|process| named(&process.env));
        let names = named(&spec.env).chain(of_processes).collect();
        let secrets = Secrets::read(&self.secrets, names).await?;
        let credentials = credentials(&self.secrets, spec, image.as_ref()).await?;
        let request = wanted::request(&object, &secrets, credentials)?;
        let generation = wanted::generation(&object);
        let processes = spec.processes.iter().map(|process| wanted::process(process, generation, &secrets));
        let declaration = Declaration {
            by: wanted::by(&object),
            generation,
            source: wanted::source(spec),
            processes: processes.collect::<Result<_, Problem>>()?,
            runs: BTreeMap::new(),
        };
        let kept = if crds::is_kept(&object) { None } else { Some(self.finalizers(&object, true).await?) };
        self.controller.declare(request, declaration).await?;
        Ok(kept)
    }

    async fn change(&self, object: &GardenContainer, current: &DeclaredContainer) -> Result<(), Failure> {
        let before: GardenContainerSpec = serde_json::from_str(&current.declaration.source).unwrap_or_default();
        let after = &object.spec;
        let limits = wanted::limits(after);
        let in_force = self.controller.view(&current.uid).map(|view| view.limits);
        // One that was recorded and not put in force is put so again.
        let limits = (wanted::limits(&before) != limits || in_force != Some(limits)).then_some(limits);
        let gone = |key: &&String| !after.properties.contains_key(*key);
        let change = Redeclaration {
            generation: wanted::generation(object),
            source: wanted::source(after),
            processes: self.processes(object, &before, current).await?,
            limits,
            grace_time: wanted::grace_time(after)?,
            properties: after.properties.clone(),
            without_properties: before.properties.keys().filter(gone).cloned().collect(),
            without_ports: others(&before.ports, &after.ports).map(wanted::port).collect(),
            ports: others(&after.ports, &before.ports).map(wanted::port).collect(),
        };
        Ok(self.controller.redeclare(&current.declaration.by, change).await?)
    }

    /// One that is declared as before is the one that runs, with the secrets that it was started with.
    async fn processes(
        &self,
        object: &GardenContainer,
        before: &GardenContainerSpec,
        current: &DeclaredContainer,
    ) -> Result<Vec<DeclaredProcess>, Failure> {
        let plain = |process: &crds::DeclaredProcess| crds::DeclaredProcess { restart_policy: None, ..process.clone() };
        let mut processes = Vec::new();
        for process in &object.spec.processes {
            let same = before.processes.iter().any(|old| plain(old) == plain(process));
            let runs = current.declaration.processes.iter().find(|known| known.id.as_str() == process.name);
            processes.push(match runs.filter(|_| same) {
                Some(known) => DeclaredProcess { restart: wanted::restart(process), ..known.clone() },
                None => {
                    let secrets = Secrets::read(&self.secrets, named(&process.env).collect()).await?;
                    wanted::process(process, wanted::generation(object), &secrets)?
                }
            });
        }
        Ok(processes)
    }

    async fn recreate(
        &self,
        object: GardenContainer,
        current: &DeclaredContainer,
        fields: &[&'static str],
    ) -> Result<Option<GardenContainer>, Failure> {
        // What runs is not given up for what is known not to come after it.
        if self.controller.draining() {
            return Err(Error::Draining.into());
        }
        wanted::image(&object.spec)?;
        wanted::grace_time(&object.spec)?;
        let view = self.controller.view(&current.uid);
        let told = status(&object, view.as_ref(), &Standing::Recreating(fields), &self.options);
        if object.status.as_ref() != Some(&told) {
            self.write_status(&object.name_any(), &told).await?;
        }
        self.controller.undeclare(&current.declaration.by).await?;
        self.make(object).await
    }

    async fn release(&self, object: &GardenContainer) -> Result<Option<GardenContainer>, Failure> {
        match self.finalizers(object, false).await {
            Ok(object) => Ok(Some(object)),
            Err(Trouble::NotFound(_)) => Ok(None),
            Err(trouble) => Err(trouble.into()),
        }
    }

    /// With ours, or without it. Refused where somebody changed it meanwhile, and tried again with
    /// what they made of it.
    async fn finalizers(&self, object: &GardenContainer, kept: bool) -> Result<GardenContainer, Trouble> {
        self.budget.spend().await;
        ask(self.containers.patch(&object.name_any(), &by_us(), &Patch::Merge(crds::keep(object, kept)))).await
    }

    /// Writes a status.
    pub(super) async fn write_status(
        &self,
        name: &str,
        status: &GardenContainerStatus,
    ) -> Result<GardenContainer, Trouble> {
        let status = serde_json::to_value(status).unwrap_or_default();
        self.budget.spend().await;
        ask(self.containers.patch_status(name, &by_us(), &whole("status", status))).await
    }
}

/// Ports that the other list does not have.
fn others<'a>(
    ports: &'a [crds::DeclaredPort],
    than: &'a [crds::DeclaredPort],
) -> impl Iterator<Item = &'a crds::DeclaredPort> {
    ports.iter().filter(|port| !than.contains(port))
}
