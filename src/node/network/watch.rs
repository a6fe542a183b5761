//! Tells when somebody has removed our table.

use super::netlink::Connection;
use netlink_packet_netfilter::nftables::{NfTablesMessage, TableAttribute};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};
use std::io;
use tokio::sync::mpsc;

/// Watches on a thread of its own, until nobody listens. Other changes to the table are found by
/// looking at it.
pub(super) fn start(table: String, disturbed: mpsc::Sender<()>) -> io::Result<()> {
    let mut events = Connection::nftables_events()?;
    let watch = move || {
        while !disturbed.is_closed() {
            let gone = match events.listen::<NetfilterMessage>() {
                Ok(messages) => messages.iter().any(|message| removes(message, &table)),
                // Some were lost: any may have been it.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => true,
                // One that is not understood is of no table of ours.
                Err(error) if error.raw_os_error().is_none() => false,
                Err(error) => {
                    tracing::warn!(%error, "changes to nftables are not told any more; they are found by looking");
                    return;
                }
            };
            if gone {
                // One that waits already says the same.
                let _ = disturbed.try_send(());
            }
        }
    };
    std::thread::Builder::new().name("nftables".to_owned()).spawn(watch).map(drop)
}

fn removes(message: &NetfilterMessage, table: &str) -> bool {
    let NetfilterMessageInner::NfTables(NfTablesMessage::DeleteTable(gone)) = &message.inner else { return false };
    gone.attributes.iter().any(|attribute| matches!(attribute, TableAttribute::Name(name) if name == table))
}
