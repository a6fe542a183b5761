//! Configuration: what an option is, where its value comes from, and what there is to read of it.
//!
//! ```text
//! ServeArgs (options.rs): the one list ──▶ flags, GARDEND_*, keys of the file     (list.rs)
//!                                     ├──▶ JSON schema, docs/configuration.md     (documents.rs)
//!                                     └──▶ ServeConfig, checked
//! flag, before variable, before file (file.rs), before default                    (sources.rs)
//! ```
//! An option has one name everywhere: `--max-containers`, GARDEND_MAX_CONTAINERS, and
//! `max-containers` in the file. Nothing is ever taken in part: a file with one mistake stops the
//! start, with the line and what to do.

mod documents;
mod file;
mod kube;
mod list;
mod network;
mod options;
mod sources;
mod values;

pub use documents::{manual, schema};
pub use kube::{Audience, KubeConfig, TokenReviewConfig};
pub use network::{CniConfig, NetworkConfig, NetworkMeans, SmallMtu};
pub use options::{Backend, ConfigError, Containerd, MountNamespace, Runtime, SeccompProfile, ServeArgs, ServeConfig};
pub use sources::{DEFAULT_FILE, Origin, Setting, Sources};
pub use values::{AdditionalHost, Bytes, GroupName, SocketMode, parse_duration};
