//! gardend's heart: records of what is wanted, and the loop that converges a node onto them.
//!
//! ```text
//!   front ends ──▶ service ──▶ ledger (record first)
//!                     │  ▲        ▲
//!                wake ▼  │ state  │
//!                  queue ──▶ reconcile ──▶ ports (the node) ──events──▶ processes
//!                     ▲            plan: what is the next step?             │
//!                  sweeper: what is really there?                           ▼ attachments
//! ```
//!
//! Pure: no HTTP, no containerd, no Kubernetes, no Linux calls; the node is reached through
//! [`ports`].

mod addresses;
mod attachment;
#[cfg(any(test, feature = "fakes"))]
pub mod contract;
mod counts;
mod create;
mod declared;
mod destroy;
mod drain;
pub mod error;
#[cfg(any(test, feature = "fakes"))]
pub mod fake;
mod files;
mod grace;
mod images;
pub mod ledger;
mod measure;
mod network;
mod news;
pub mod observe;
mod oom;
mod options;
mod places;
pub mod plan;
pub mod ports;
mod pressure;
mod processes;
pub mod queue;
mod reconcile;
pub mod record;
mod service;
mod shared;
mod start;
mod state;
mod sweeper;
mod timers;

pub use addresses::{AddressError, Asked};
pub use attachment::{Attachment, Output};
pub use counts::{AddressCounts, Counts, Health, PlaceCounts, QueueCounts};
pub use declared::{Backoff, DeclaredContainer, DeclaredView, KeptView, Redeclaration};
pub use drain::{Drain, DrainView, Remaining};
pub use error::Error;
pub use files::Transfer;
pub use images::KnownImage;
pub use ledger::{Ledger, LedgerError};
pub use measure::Figures;
pub use network::{MAX_PORTS_IN, MAX_RULES_OUT};
pub use news::{ContainerView, Follower, Incident, IncidentKind, MAX_INCIDENTS, News, NodeView, ProcessView};
pub use oom::OUT_OF_MEMORY;
pub use options::{AddressSource, NetworkOptions, Node, Options};
pub use pressure::{Pressure, PressureOptions, Resource, Shortage, Threshold};
pub use processes::{MAX_ENDED, MAX_SEEN};
pub use service::{Controller, Info, MAX_PROPERTY_BYTES, MESSAGE_PROPERTY, Outcome};
pub use start::StartError;
