//! What flows in and out of processes, on the real kernel: a small init of the tests' own hands
//! out pipes and terminals as garden-init does, and every byte is accounted for.

#[path = "streams_lanes/flow.rs"]
mod flow;
#[path = "streams_lanes/full.rs"]
mod full;
#[path = "streams_lanes/hostile.rs"]
mod hostile;
#[path = "streams_lanes/kill.rs"]
mod kill;
#[path = "streams_lanes/place.rs"]
mod place;
#[path = "streams_lanes/readers.rs"]
mod readers;
