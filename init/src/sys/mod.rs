//! The kernel calls that neither std nor rustix offers in the form needed here. The only place of
//! this crate with `unsafe`.

#![allow(unsafe_code)]

mod enter;
mod process;
mod signal;
mod socket;

pub use enter::{FilterList, become_root, enter_namespaces, is_child, take_limit_of, unshare_mounts, wait_for};
pub use process::{
    ExecImage, Reaped, close_all_but, fork, fork_apart, is_childless, limit, reap, reap_apart, set_file_owner,
    set_limit, trim_memory,
};
pub use signal::{ChildSignals, MAX_SIGNAL, Target, kill, restore_signals, take_signals};
pub use socket::{peer_pid, recv, send};

#[cfg(test)]
pub use socket::seqpacket_pair;

use std::io;

/// The result of a call that answers -1 on failure.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
