//! Where each option's value comes from: a flag, before a variable, before the configuration file,
//! before the default. A list is taken from one of them as a whole.

use super::file::{ConfigFile, flags};
use super::list::{self, Opt};
use super::{ConfigError, MountNamespace, ServeArgs, ServeConfig};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use serde::Serialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The file that is read where none is named.
pub const DEFAULT_FILE: &str = "/etc/gardend/gardend.yaml";

/// The options of `serve`, from wherever each is given. As clap's arguments they are the flags of
/// [`ServeArgs`], and `--config`.
#[derive(Clone, Debug)]
pub struct Sources {
    args: ServeArgs,
    settings: Vec<Setting>,
    file: Option<PathBuf>,
}

/// One option's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The option's name.
    pub name: String,
    /// As it was written, or as the default is; none where it is not set at all, several of a list.
    pub values: Vec<String>,
    /// Where it is from.
    pub origin: Origin,
    /// It may have several.
    #[serde(skip)]
    pub is_list: bool,
}

/// Where a value is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "from")]
pub enum Origin {
    /// Nobody gave one.
    Default,
    /// A line of the configuration file.
    File {
        /// Which.
        file: PathBuf,
        /// From 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// The command line.
    Flag {
        /// With its dashes.
        flag: String,
    },
}

#[derive(Debug, Args)]
struct FileArg {
    /// YAML file with options, by their flags' names; what is given here or as GARDEND_* goes before it [default:
    /// /etc/gardend/gardend.yaml, where it is there]
    #[arg(long, env = "GARDEND_CONFIG", value_name = "PATH", help_heading = "Configuration")]
    config: Option<PathBuf>,
}

impl Sources {
    /// Checks the options against each other.
    ///
    /// # Errors
    /// [`ConfigError`] names the options that do not go together.
    pub fn validate(self) -> Result<ServeConfig, ConfigError> {
        self.args.validate()
    }

    /// Whose mounts gardend works with.
    pub fn mount_namespace(&self) -> MountNamespace {
        self.args.mount_namespace()
    }

    /// Every option, with its value and where that is from.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// The file that was read.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

impl Args for Sources {
    fn augment_args(command: Command) -> Command {
        FileArg::augment_args(command).args(list::options().into_iter().map(Opt::into_arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Sources {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let refused =
            |error: &dyn std::error::Error| clap::Error::raw(ErrorKind::ValueValidation, format!("{error}\n"));
        let named = FileArg::from_arg_matches(matches)?.config;
        let path = named.or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists()));
        let file = path.map(|path| ConfigFile::read(&path)).transpose().map_err(|error| refused(&error))?;
        let (mut settings, mut given) = (Vec::new(), Vec::new());
        for option in list::options() {
            let (values, origin) = of_option(&option, matches, file.as_ref());
            if origin != Origin::Default {
                given.extend(flags(option.name(), values.iter().cloned()));
            }
            let values = values.iter().map(|value| value.to_string_lossy().into_owned()).collect();
            let is_list = option.kind() == list::Kind::Many;
            settings.push(Setting { name: option.name().to_owned(), values, origin, is_list });
        }
        Ok(Self { args: list::parse_exactly(given)?, settings, file: file.map(|file| file.path) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn of_option(option: &Opt, matches: &ArgMatches, file: Option<&ConfigFile>) -> (Vec<OsString>, Origin) {
    let given = || matches.get_raw(option.id()).into_iter().flatten().map(OsString::from).collect();
    let entry = file.and_then(|file| file.entry(option.name()).map(|entry| (&file.path, entry)));
    match (matches.value_source(option.id()), entry) {
        (Some(ValueSource::CommandLine), _) => (given(), Origin::Flag { flag: format!("--{}", option.name()) }),
        (Some(ValueSource::EnvVariable), _) => (given(), Origin::Environment { variable: option.variable() }),
        (_, Some((path, entry))) => {
            let origin = Origin::File { file: path.clone(), line: entry.line };
            (entry.values.iter().map(OsString::from).collect(), origin)
        }
        _ => (option.default().into_iter().map(OsString::from).collect(), Origin::Default),
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Environment { variable } => f.write_str(variable),
            Self::Flag { flag } => f.write_str(flag),
        }
    }
}
