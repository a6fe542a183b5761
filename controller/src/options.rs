//! What the composition root hands to the controller: numbers, and the node.

use crate::ports::{Files, Images, Metrics, Processes, Resources, Rootfs, Sandboxes, Streams};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The numbers that an operator can set.
#[derive(Clone, Debug)]
pub struct Options {
    /// Containers at most.
    pub max_containers: usize,
    /// Grace time of a container that names none. `None`: none.
    pub default_grace_time: Option<Duration>,
    /// Blank places kept ready, of each kind that is in use.
    pub pool_size: usize,
    /// How long stdin stays open after the last client has gone.
    pub detach_grace: Duration,
    /// How long a stream id can be fetched after its process connection has ended.
    pub stream_linger: Duration,
    /// How long the record of an ended process is kept once somebody has seen how it ended.
    pub process_retention: Duration,
    /// How often the sweeper looks at the real state.
    pub sweep_interval: Duration,
    /// How long a stop waits between TERM and KILL.
    pub stop_grace: Duration,
    /// How long a create may take in all.
    pub create_deadline: Duration,
    /// How long a destroy waits for the container to be dead before it answers `Stuck`.
    pub destroy_deadline: Duration,
    /// Places made at once, by creates and for the pool together.
    pub makes_at_once: usize,
    /// Places furnished at once.
    pub furnishings_at_once: usize,
    /// Dead places removed at once.
    pub removals_at_once: usize,
    /// The folder of the places' folders, for [`crate::Info::path`].
    pub places: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_containers: 250,
            default_grace_time: None,
            pool_size: 4,
            detach_grace: Duration::from_secs(60),
            stream_linger: Duration::from_secs(60),
            process_retention: Duration::from_secs(300),
            sweep_interval: Duration::from_secs(10),
            stop_grace: Duration::from_secs(10),
            create_deadline: Duration::from_secs(120),
            destroy_deadline: Duration::from_secs(15),
            makes_at_once: 4,
            furnishings_at_once: 16,
            removals_at_once: 4,
            places: PathBuf::from("/run/gardend/places"),
        }
    }
}

/// The node's ports, as the composition root hands them over.
#[derive(Clone)]
pub struct Node {
    /// Places.
    pub sandboxes: Arc<dyn Sandboxes>,
    /// Files.
    pub rootfs: Arc<dyn Rootfs>,
    /// Images.
    pub images: Arc<dyn Images>,
    /// Processes.
    pub processes: Arc<dyn Processes>,
    /// Their streams.
    pub streams: Arc<dyn Streams>,
    /// Tar streams in and out.
    pub files: Arc<dyn Files>,
    /// Limits.
    pub resources: Arc<dyn Resources>,
    /// Figures.
    pub metrics: Arc<dyn Metrics>,
}
