//! The list of options, as clap has it of [`ServeArgs`], with the habits that all of them share:
//! a list is given by a repeated flag or with commas between; a switch can be turned off again.

use super::ServeArgs;
use clap::builder::{BoolishValueParser, Resettable};
use clap::{Arg, ArgAction, Args, Command, FromArgMatches};
use std::ffi::OsString;

/// One option.
pub(super) struct Opt(Arg);

/// What an option's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    One,
    Switch,
    Many,
}

impl Opt {
    /// Its name: the flag without its dashes, the key in the file.
    pub(super) fn name(&self) -> &str {
        self.0.get_long().unwrap_or(self.0.get_id().as_str())
    }

    /// As clap knows it.
    pub(super) fn id(&self) -> &str {
        self.0.get_id().as_str()
    }

    /// Its environment variable.
    pub(super) fn variable(&self) -> String {
        self.0.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    pub(super) fn kind(&self) -> Kind {
        match self.0.get_action() {
            ArgAction::Append => Kind::Many,
            ArgAction::SetTrue => Kind::Switch,
            _ => Kind::One,
        }
    }

    /// What it is without being given; none where it is nothing then.
    pub(super) fn default(&self) -> Vec<String> {
        if self.kind() == Kind::Switch {
            return vec!["false".to_owned()];
        }
        self.0.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect()
    }

    /// How its value is written.
    pub(super) fn value_name(&self) -> String {
        match self.kind() {
            Kind::Switch => "true|false".to_owned(),
            _ => self.0.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect(),
        }
    }

    /// The values that it may have, where they are few.
    pub(super) fn choices(&self) -> Vec<String> {
        if self.kind() == Kind::Switch {
            return Vec::new();
        }
        self.0.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect()
    }

    /// What it is for.
    pub(super) fn help(&self) -> String {
        let help = self.0.get_long_help().or_else(|| self.0.get_help());
        help.map(ToString::to_string).unwrap_or_default()
    }

    /// Below which heading it stands.
    pub(super) fn heading(&self) -> &str {
        self.0.get_help_heading().unwrap_or("Options")
    }

    /// As the commands that take it have it.
    pub(super) fn into_arg(self) -> Arg {
        match self.kind() {
            Kind::One => self.0,
            Kind::Many => self.0.value_delimiter(','),
            Kind::Switch => as_value(self.0),
        }
    }
}

/// A switch that may say `=false`: what the file or a variable turned on can be turned off.
fn as_value(switch: Arg) -> Arg {
    switch
        .action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .value_name("BOOL")
        .value_parser(BoolishValueParser::new())
        .hide_possible_values(true)
        .default_value("false")
        .hide_default_value(true)
        .default_missing_value("true")
}

/// Every option, in order.
pub(super) fn options() -> Vec<Opt> {
    ServeArgs::augment_args(Command::new("gardend")).get_arguments().cloned().map(Opt).collect()
}

/// Parses flags alone, each with a value; deaf to the environment. Commas are a list's own here.
pub(super) fn parse_exactly(flags: impl IntoIterator<Item = OsString>) -> Result<ServeArgs, clap::Error> {
    let exact = |option: Opt| match option.kind() {
        Kind::Switch => as_value(option.0),
        _ => option.0,
    };
    parse_with(exact, flags)
}

/// Parses flags as the commands do; deaf to the environment.
#[cfg(test)]
pub(super) fn parse(flags: &[&str]) -> Result<ServeArgs, clap::Error> {
    parse_with(Opt::into_arg, flags.iter().map(OsString::from))
}

fn parse_with(
    as_arg: impl Fn(Opt) -> Arg,
    flags: impl IntoIterator<Item = OsString>,
) -> Result<ServeArgs, clap::Error> {
    let args = options().into_iter().map(|option| as_arg(option).env(Resettable::Reset));
    let mut command = Command::new("gardend").no_binary_name(true).disable_help_flag(true).args(args);
    let matches = command.try_get_matches_from_mut(flags)?;
    ServeArgs::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_one_name_everywhere_and_says_what_it_is_for() {
        for option in options() {
            let name = option.name();
            assert_eq!(option.id().replace('_', "-"), name);
            assert_eq!(option.variable(), format!("GARDEND_{}", name.to_uppercase().replace('-', "_")), "{name}");
            assert!(!option.help().is_empty(), "--{name} says nothing");
            assert!(!option.value_name().is_empty(), "--{name}");
            assert_ne!(option.heading(), "Options", "--{name} stands below no heading");
        }
    }

    #[test]
    fn switches_can_be_turned_off_and_lists_take_commas() {
        let switch = Arg::new("switch").long("switch").action(ArgAction::SetTrue);
        let list = Arg::new("list").long("list").action(ArgAction::Append);
        let command = || {
            Command::new("x").no_binary_name(true).args([switch.clone(), list.clone()].map(|arg| Opt(arg).into_arg()))
        };
        for (flags, on) in
            [(&[][..], false), (&["--switch"], true), (&["--switch=false"], false), (&["--switch=on"], true)]
        {
            let matches = command().try_get_matches_from(flags).unwrap();
            assert_eq!(matches.get_one::<bool>("switch"), Some(&on), "{flags:?}");
        }
        let matches = command().try_get_matches_from(["--list", "a,b", "--list=c"]).unwrap();
        assert_eq!(matches.get_many::<String>("list").unwrap().collect::<Vec<_>>(), ["a", "b", "c"]);
    }
}
