//! `gardend props`.

use super::Context;
use super::flags::Json;
use super::outcome::Failure;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::process::ExitCode;

#[derive(Debug, Args)]
#[command(
    override_usage = "gardend props [OPTIONS] HANDLE\n       gardend props [OPTIONS] HANDLE get KEY\n       \
                      gardend props [OPTIONS] HANDLE set KEY VALUE\n       gardend props [OPTIONS] HANDLE rm KEY",
    after_help = "Examples:\n  gardend props web\n  gardend props web set team a\n  gardend props web get team"
)]
pub struct PropsArgs {
    /// The container
    handle: String,

    /// What to do [default: show all]
    action: Option<Action>,

    /// The property
    key: Option<String>,

    /// Its value, which may be empty
    #[arg(allow_hyphen_values = true)]
    value: Option<String>,

    #[command(flatten)]
    json: Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Action {
    /// Print one property's value
    Get,
    /// Set a property
    Set,
    /// Remove a property
    #[value(alias = "remove", alias = "unset")]
    Rm,
}

#[derive(Serialize)]
struct Property {
    key: String,
    value: String,
}

pub(super) async fn props(context: &Context, args: PropsArgs) -> Result<ExitCode, Failure> {
    let (client, ui, handle) = (&context.client, &context.ui, args.handle.as_str());
    match (args.action, args.key, args.value) {
        (None, _, _) => {
            let properties = client.properties(handle).await?;
            if args.json.json {
                ui.json(&properties)?;
            } else {
                let rows = properties.into_iter().map(|(key, value)| vec![key.into(), value.into()]).collect();
                ui.table(&["PROPERTY", "VALUE"], rows)?;
            }
        }
        (Some(Action::Get), Some(key), None) => {
            let value = client.property(handle, &key).await?;
            if args.json.json {
                ui.json(&Property { key, value })?;
            } else {
                ui.line(&value)?;
            }
        }
        (Some(Action::Set), Some(key), Some(value)) => client.set_property(handle, &key, &value).await?,
        (Some(Action::Set), Some(pair), None) if pair.contains('=') => {
            let (key, value) = pair.split_once('=').unwrap_or((&pair, ""));
            client.set_property(handle, key, value).await?;
        }
        (Some(Action::Rm), Some(key), None) => client.remove_property(handle, &key).await?,
        (Some(action), ..) => {
            let form = match action {
                Action::Get => "get KEY",
                Action::Set => "set KEY VALUE",
                Action::Rm => "rm KEY",
            };
            return Err(Failure::Usage(format!("say: gardend props {handle} {form}")));
        }
    }
    Ok(ExitCode::SUCCESS)
}
