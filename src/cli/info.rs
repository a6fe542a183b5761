//! `gardend info`.

use super::Context;
use super::client::ContainerInfo;
use super::client::wire::PortMapping;
use super::flags::Json;
use super::ls::state;
use super::outcome::Failure;
use super::output::{Cell, Tone};
use clap::Args;
use gardend_controller::record::Properties;
use serde::Serialize;
use std::process::ExitCode;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  gardend info web\n  gardend info web --json")]
pub struct InfoArgs {
    /// The container
    handle: String,

    #[command(flatten)]
    json: Json,
}

/// A container, as JSON shows it.
#[derive(Serialize)]
pub(super) struct Shown {
    handle: String,
    state: String,
    processes: Vec<String>,
    path: String,
    container_ip: String,
    container_ipv6: String,
    host_ip: String,
    external_ip: String,
    ports: Vec<PortMapping>,
    properties: Properties,
    events: Vec<String>,
}

impl Shown {
    pub(super) fn new(handle: String, info: ContainerInfo) -> Self {
        Self {
            handle,
            state: info.state,
            processes: info.process_ids,
            path: info.container_path,
            container_ip: info.container_ip,
            container_ipv6: info.container_ipv6,
            host_ip: info.host_ip,
            external_ip: info.external_ip,
            ports: info.mapped_ports,
            properties: info.properties,
            events: info.events,
        }
    }
}

pub(super) async fn info(context: &Context, args: InfoArgs) -> Result<ExitCode, Failure> {
    let info = context.client.info(&args.handle).await?;
    if args.json.json {
        context.ui.json(&Shown::new(args.handle, info))?;
    } else {
        context.ui.rows(rows(args.handle, info))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What there is, a line each; what is empty is left out.
fn rows(handle: String, info: ContainerInfo) -> Vec<Vec<Cell>> {
    let state = state(&info.state);
    let mut rows = vec![row("Handle", handle.into()), row("State", state)];
    let texts = [
        ("Path", info.container_path),
        ("Address", info.container_ip),
        ("IPv6 address", info.container_ipv6),
        ("Host's end", info.host_ip),
        ("Node", info.external_ip),
    ];
    rows.extend(texts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| row(name, text.into())));
    let ports = info.mapped_ports.iter().map(|port| format!("{} -> {}", port.host_port, port.container_port));
    let properties = info.properties.iter().map(|(key, value)| format!("{key}={value}"));
    list(&mut rows, "Processes", info.process_ids.iter().cloned());
    list(&mut rows, "Ports", ports);
    list(&mut rows, "Properties", properties);
    list(&mut rows, "Events", info.events.iter().cloned());
    rows
}

fn row(name: &str, cell: Cell) -> Vec<Cell> {
    vec![Cell::toned(name, Tone::Heading), cell]
}

/// The name beside the first alone.
fn list(rows: &mut Vec<Vec<Cell>>, name: &str, items: impl Iterator<Item = String>) {
    for (index, item) in items.enumerate() {
        rows.push(row(if index == 0 { name } else { "" }, item.into()));
    }
}
