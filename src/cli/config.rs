//! `gardend config`: what `serve` would run with, and what there is to say to it.

use super::flags::Json;
use super::outcome::{Failure, Status};
use super::output::{Cell, Tone, Ui, report_error};
use crate::config::{self, Origin, Setting, Sources};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::process::ExitCode;

/// What of it to show.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  gardend config show\n  gardend config schema > gardend.schema.json\n  gardend config docs"
)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Show every option that `serve` would run with, and where its value is from
    #[command(after_help = "Takes the flags of `gardend serve`, reads its variables and its file.\n\n\
                            Examples:\n  gardend config show\n  gardend config show --config ./gardend.yaml --json")]
    Show(Box<ShowArgs>),
    /// Print the JSON schema of the configuration file
    Schema,
    /// Print every option as a page of Markdown
    Docs,
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    options: Sources,
    #[command(flatten)]
    json: Json,
}

/// An option, as JSON shows it.
#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    value: Value<'a>,
    #[serde(flatten)]
    origin: &'a Origin,
}

/// None: null.
#[derive(Serialize)]
#[serde(untagged)]
enum Value<'a> {
    Many(&'a [String]),
    One(Option<&'a str>),
}

/// Prints what was asked for.
pub(super) fn config(args: ConfigArgs) -> Result<ExitCode, Failure> {
    let ui = Ui::new();
    match args.command {
        ConfigCommand::Show(args) => show(&ui, *args)?,
        ConfigCommand::Schema => ui.json(&config::schema())?,
        // As it is: a page has lines.
        ConfigCommand::Docs => ui.text(&config::manual())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(ui: &Ui, args: ShowArgs) -> Result<(), Failure> {
    let settings = args.options.settings();
    if args.json.json {
        ui.json(&settings.iter().map(shown).collect::<Vec<_>>())?;
    } else {
        ui.table(&["OPTION", "VALUE", "FROM"], settings.iter().map(row).collect())?;
    }
    args.options.validate().map(drop).map_err(|error| {
        report_error(&error.to_string());
        Failure::Told(Status::Failed)
    })
}

fn shown(setting: &Setting) -> Shown<'_> {
    let value = match setting.is_list {
        true => Value::Many(&setting.values),
        false => Value::One(setting.values.first().map(String::as_str)),
    };
    Shown { name: &setting.name, value, origin: &setting.origin }
}

fn row(setting: &Setting) -> Vec<Cell> {
    let value = if setting.values.is_empty() { "-".to_owned() } else { setting.values.join(", ") };
    let tone = if setting.origin == Origin::Default { Tone::Plain } else { Tone::Good };
    vec![setting.name.clone().into(), value.into(), Cell::toned(setting.origin.to_string(), tone)]
}
