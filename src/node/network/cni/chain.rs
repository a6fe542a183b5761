//! The plugins of one attachment, one after the other: what each is told, and what becomes of answers.

use super::config::{NetworkList, Plugin, Version};
use super::plugin::{self, Call, PluginError, Programs, Subject, Turn, Verb};
use super::store::Attachment;
use super::told::PORT_MAPPINGS;
use crate::node::network::names::INSIDE;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

/// Plugins of a node, and their time.
#[derive(Clone, Debug)]
pub(super) struct Plugins {
    pub programs: Programs,
    /// For one call that makes something.
    pub deadline: Duration,
    /// For one that undoes it: somebody waits for a container's end.
    pub undo_deadline: Duration,
}

/// One attachment's.
pub(super) struct Chain<'a> {
    pub plugins: &'a Plugins,
    pub attachment: &'a Attachment,
    /// Where its network namespace is kept; empty: it is gone.
    pub netns: OsString,
    pub turn: &'a Turn,
}

impl Chain<'_> {
    /// Adds all, in their order; what the last one answered.
    pub async fn add(&self) -> Result<Value, PluginError> {
        let mut result = None;
        for plugin in &self.attachment.network.plugins {
            result = Some(self.call(plugin, Verb::Add, result.as_ref()).await?);
        }
        Ok(result.unwrap_or_default())
    }

    /// Undoes all, the last first. One that fails does not keep the others from it; the first failure is
    /// told.
    pub async fn del(&self) -> Result<(), PluginError> {
        let mut failed = None;
        for plugin in self.attachment.network.plugins.iter().rev() {
            if let Err(error) = self.call(plugin, Verb::Del, self.attachment.result.as_ref()).await {
                tracing::warn!(handle = %self.attachment.handle, %error, "a plugin does not let go of a container");
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Asks each whether all is as it made it. Not where the configuration says not to.
    pub async fn check(&self) -> Result<(), PluginError> {
        if self.attachment.network.disable_check {
            return Ok(());
        }
        for plugin in &self.attachment.network.plugins {
            self.call(plugin, Verb::Check, self.attachment.result.as_ref()).await?;
        }
        Ok(())
    }

    /// Has those that lead ports in let go of the ports that they know of.
    pub async fn close_ports(&self) -> Result<(), PluginError> {
        for plugin in self.of_ports().rev() {
            self.call(plugin, Verb::Del, self.attachment.result.as_ref()).await?;
        }
        Ok(())
    }

    /// Has them lead in those that they are told. They add nothing to the result.
    pub async fn open_ports(&self) -> Result<(), PluginError> {
        for plugin in self.of_ports() {
            self.call(plugin, Verb::Add, self.attachment.result.as_ref()).await?;
        }
        Ok(())
    }

    /// Not the first, which makes the link.
    fn of_ports(&self) -> impl DoubleEndedIterator<Item = &Plugin> {
        of_ports(&self.attachment.network)
    }

    async fn call(&self, plugin: &Plugin, verb: Verb, previous: Option<&Value>) -> Result<Value, PluginError> {
        let Attachment { network, sandbox, args, told, .. } = self.attachment;
        let subject = Subject {
            container: sandbox.to_string(),
            netns: self.netns.clone(),
            interface: INSIDE,
            args: args.clone(),
        };
        let stdin = execution(network, plugin, told, previous);
        let deadline = if verb == Verb::Del { self.plugins.undo_deadline } else { self.plugins.deadline };
        let call = Call { plugin, verb, subject, stdin, deadline };
        plugin::call(&self.plugins.programs, &call, self.turn).await
    }
}

fn of_ports(network: &NetworkList) -> impl DoubleEndedIterator<Item = &Plugin> {
    network.plugins.iter().skip(1).filter(|plugin| plugin.capabilities.contains(PORT_MAPPINGS))
}

/// Whether ports can be led in by plugins, also when a container is there already: some other than the
/// one that makes its link can.
pub(super) fn leads_ports(network: &NetworkList) -> bool {
    of_ports(network).next().is_some()
}

/// Has every plugin of a network collect what is of none of these containers (their ids). All are asked;
/// the first failure is told.
pub(super) async fn collect(
    plugins: &Plugins,
    network: &NetworkList,
    valid: &[String],
    turn: &Turn,
) -> Result<(), PluginError> {
    if network.version < Version::V1_1_0 || network.disable_gc {
        return Ok(());
    }
    let valid: Vec<Value> = valid.iter().map(|id| json!({ "containerID": id, "ifname": INSIDE })).collect();
    let nobody = Subject { container: String::new(), netns: OsString::new(), interface: INSIDE, args: String::new() };
    let mut failed = None;
    for plugin in &network.plugins {
        let mut stdin = execution(network, plugin, &BTreeMap::new(), None);
        stdin["cni.dev/valid-attachments"] = valid.clone().into();
        let (subject, deadline) = (nobody.clone(), plugins.deadline);
        let call = Call { plugin, verb: Verb::Gc, subject, stdin, deadline };
        let called = plugin::call(&plugins.programs, &call, turn).await;
        if let Err(error) = called {
            tracing::warn!(network = network.name, %error, "a plugin does not collect what nobody uses");
            failed.get_or_insert(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

/// What a plugin reads: its configuration, with what is this call's own.
fn execution(
    network: &NetworkList,
    plugin: &Plugin,
    told: &BTreeMap<String, Value>,
    previous: Option<&Value>,
) -> Value {
    let mut config = plugin.config.clone();
    config.insert("name".to_owned(), json!(network.name));
    config.insert("cniVersion".to_owned(), json!(network.version.as_str()));
    let told: Map<String, Value> = told
        .iter()
        .filter(|(capability, _)| plugin.capabilities.contains(*capability))
        .map(|(capability, value)| (capability.clone(), value.clone()))
        .collect();
    if !told.is_empty() {
        config.insert("runtimeConfig".to_owned(), Value::Object(told));
    }
    if let Some(previous) = previous {
        config.insert("prevResult".to_owned(), previous.clone());
    }
    Value::Object(config)
}
