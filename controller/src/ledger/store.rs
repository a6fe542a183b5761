//! The tables, and what a batch does to them. Synchronous: whoever holds the store writes.

use super::open::{beside, private_file};
use super::{Change, Contents, Durable, LedgerError};
use crate::record::{ContainerUid, ProcessId, ProcessRecord, ProcessUid, SandboxId, SandboxRecord};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Kept back for the changes that end or remove things, when the disk is full otherwise.
const RESERVE_BYTES: usize = 16 * 1024 * 1024;
/// The log is moved into the database at this length at the latest: half of the reserve.
pub const LOG_PAGES: usize = RESERVE_BYTES / 2 / 4096;
/// Pages that are worth giving back.
const MANY_FREE_PAGES: i64 = 1024;

/// An open ledger.
pub struct Store {
    connection: Connection,
    path: Option<PathBuf>,
    synchronous: Option<Durable>,
    reserve: Reserve,
    /// The last write failed, and no new record was written since.
    failing: Arc<AtomicBool>,
    /// Held for as long as the database is open.
    _lock: Option<File>,
}

impl Store {
    pub fn new(connection: Connection, path: Option<PathBuf>, lock: Option<File>) -> Self {
        let reserve = Reserve::of(path.as_deref());
        Self { connection, path, synchronous: None, reserve, failing: Arc::default(), _lock: lock }
    }

    /// Whether the last write failed, and no new record was written since.
    pub fn failing(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.failing)
    }

    /// Writes batches in one transaction: all of them or none.
    pub fn apply<C: AsRef<[Change]>>(&mut self, batches: &[(C, Durable)]) -> Result<(), LedgerError> {
        let adds = batches.iter().any(|(changes, _)| changes.as_ref().iter().any(Change::adds));
        let result = self.make_room_for(batches, adds);
        match &result {
            Err(_) => self.failing.store(true, Ordering::Relaxed),
            Ok(()) if adds => self.failing.store(false, Ordering::Relaxed),
            // What is full for new records may still take this.
            Ok(()) => {}
        }
        result
    }

    fn make_room_for<C: AsRef<[Change]>>(&mut self, batches: &[(C, Durable)], adds: bool) -> Result<(), LedgerError> {
        if adds && !self.reserve.ensure() && !(self.shrink() && self.reserve.ensure()) {
            // The last room is kept for what ends or removes things.
            return Err(LedgerError::Write { reason: "no space is left for new records".into(), full: true });
        }
        let mut result = self.transact(batches);
        // The log may be all that takes up the room; the reserve is not for new records.
        let full = |result: &rusqlite::Result<()>| result.as_ref().is_err_and(is_full);
        if full(&result) && self.fold() {
            result = self.transact(batches);
        }
        if full(&result) && !adds && self.reserve.release() {
            // Twice what the log may be: there is room to move it, and then for as much again.
            self.fold();
            result = self.transact(batches);
        }
        result.map_err(|error| LedgerError::Write { full: is_full(&error), reason: error.to_string() })
    }

    fn transact<C: AsRef<[Change]>>(&mut self, batches: &[(C, Durable)]) -> rusqlite::Result<()> {
        let durable = batches.iter().map(|(_, durable)| *durable).max().unwrap_or(Durable::Crash);
        self.survive(durable)?;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for change in batches.iter().flat_map(|(changes, _)| changes.as_ref()) {
            write(&transaction, change)?;
        }
        transaction.commit()
    }

    fn survive(&mut self, durable: Durable) -> rusqlite::Result<()> {
        if self.synchronous != Some(durable) {
            let level = match durable {
                Durable::Crash => "NORMAL",
                Durable::Reboot => "FULL",
            };
            self.connection.pragma_update(None, "synchronous", level)?;
            self.synchronous = Some(durable);
        }
        Ok(())
    }

    /// Gives back to the disk what the database does not use any more; whether that went. Piece
    /// by piece: what is moved goes through the log first.
    fn shrink(&self) -> bool {
        let mut left = self.free_pages();
        while left > 0 && self.fold() && self.vacuum().is_ok() {
            let before = std::mem::replace(&mut left, self.free_pages());
            if left >= before {
                break;
            }
        }
        self.fold()
    }

    fn free_pages(&self) -> i64 {
        self.connection.pragma_query_value(None, "freelist_count", |row| row.get(0)).unwrap_or(0)
    }

    fn vacuum(&self) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached("PRAGMA incremental_vacuum(512)")?;
        let mut rows = statement.query([])?;
        // Each row is a page.
        while rows.next()?.is_some() {}
        Ok(())
    }

    /// Moves what the write-ahead log holds into the database and empties it; whether that went.
    fn fold(&self) -> bool {
        let folded = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        folded.is_ok_and(|busy| busy == 0)
    }

    /// Moves what the write-ahead log holds into the database; for when nobody waits.
    pub fn checkpoint(&mut self) {
        let moved = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = moved {
            tracing::debug!(%error, "the ledger's log was not moved into it; it is tried again");
        }
        if self.free_pages() > MANY_FREE_PAGES {
            self.shrink();
        }
        self.reserve.ensure();
    }

    /// Reads everything.
    pub fn load(&self) -> Result<Contents, LedgerError> {
        self.read().map_err(|reason| LedgerError::Corrupt {
            path: self.path.clone().unwrap_or_else(|| "in memory".into()),
            reason,
        })
    }

    fn read(&self) -> Result<Contents, String> {
        Ok(Contents {
            containers: self.rows("SELECT uid, record FROM containers", |row| json(row, 1))?,
            processes: self
                .rows("SELECT uid, container, id, spec, state, seen, created_at, ended_at FROM processes", process)?,
            sandboxes: self.rows("SELECT id, kind, container FROM sandboxes", sandbox)?,
            boot_id: self.meta("boot_id")?,
            drain: self
                .meta("drain")?
                .map(|value| serde_json::from_str(&value).map_err(|error| format!("the row of the drain: {error}")))
                .transpose()?,
        })
    }

    fn meta(&self, key: &str) -> Result<Option<String>, String> {
        let query = "SELECT value FROM meta WHERE key = ?1";
        self.connection.query_row(query, [key], |row| row.get(0)).optional().map_err(|error| error.to_string())
    }

    fn rows<T>(&self, query: &str, read: fn(&Row<'_>) -> Result<T, String>) -> Result<Vec<T>, String> {
        let mut statement = self.connection.prepare(query).map_err(|error| error.to_string())?;
        let mut rows = statement.query([]).map_err(|error| error.to_string())?;
        let mut all = Vec::new();
        while let Some(row) = rows.next().map_err(|error| error.to_string())? {
            let key: String = row.get(0).map_err(|error| error.to_string())?;
            all.push(read(row).map_err(|error| format!("the row of {key}: {error}"))?);
        }
        Ok(all)
    }

    #[cfg(any(test, feature = "fakes"))]
    pub fn pretend_full(&mut self, full: bool) {
        self.reserve.pretend_full = full;
        let pages = if full { 1 } else { i64::from(u32::MAX - 1) };
        let set = self.connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()));
        set.expect("SQLite takes the limit");
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Closing would do it too, but in silence.
        if self.path.is_some() {
            self.checkpoint();
        }
    }
}

fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

fn write(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    let run = |query: &str, values: &[&dyn rusqlite::ToSql]| -> rusqlite::Result<()> {
        transaction.prepare_cached(query)?.execute(values).map(drop)
    };
    match change {
        Change::InsertContainer(record) | Change::UpdateContainer(record) => run(
            "INSERT INTO containers (uid, handle, record) VALUES (?1, ?2, ?3)
             ON CONFLICT (uid) DO UPDATE SET record = excluded.record",
            params![record.uid.as_str(), record.handle.as_str(), text(&record)?],
        ),
        Change::DeleteContainer(uid) => {
            run("DELETE FROM processes WHERE container = ?1", params![uid.as_str()])?;
            run("DELETE FROM containers WHERE uid = ?1", params![uid.as_str()])
        }
        Change::InsertProcess(record) => {
            let mut spec = record.spec.clone();
            spec.env.clear();
            run(
                "INSERT INTO processes (uid, container, id, spec, state, seen, created_at, ended_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    record.uid.as_str(),
                    record.container.as_str(),
                    record.id.as_str(),
                    text(&spec)?,
                    text(&record.state)?,
                    record.seen,
                    text(&record.created_at)?,
                    text(&record.ended_at)?
                ],
            )
        }
        Change::UpdateProcess { uid, state, seen, ended_at } => run(
            "UPDATE processes SET state = ?2, seen = ?3, ended_at = ?4 WHERE uid = ?1",
            params![uid.as_str(), text(state)?, seen, text(ended_at)?],
        ),
        Change::DeleteProcess(uid) => run("DELETE FROM processes WHERE uid = ?1", params![uid.as_str()]),
        Change::PutSandbox(record) => run(
            "INSERT INTO sandboxes (id, kind, container) VALUES (?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET container = excluded.container",
            params![record.id.as_str(), text(&record.kind)?, record.container.as_ref().map(ContainerUid::as_str)],
        ),
        Change::DeleteSandbox(id) => run("DELETE FROM sandboxes WHERE id = ?1", params![id.as_str()]),
        Change::Probe => {
            run("INSERT OR REPLACE INTO meta (key, value) VALUES ('probe', hex(randomblob(8)))", params![])
        }
        Change::Drain(Some(drain)) => {
            run("INSERT OR REPLACE INTO meta (key, value) VALUES ('drain', ?1)", params![text(drain)?])
        }
        Change::Drain(None) => run("DELETE FROM meta WHERE key = 'drain'", params![]),
        Change::BootId(boot_id) => {
            run("INSERT OR REPLACE INTO meta (key, value) VALUES ('boot_id', ?1)", params![boot_id])
        }
    }
}

fn text(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn column<T: rusqlite::types::FromSql>(row: &Row<'_>, index: usize) -> Result<T, String> {
    row.get(index).map_err(|error| error.to_string())
}

fn json<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> Result<T, String> {
    serde_json::from_str(&column::<String>(row, index)?).map_err(|error| error.to_string())
}

fn process(row: &Row<'_>) -> Result<ProcessRecord, String> {
    Ok(ProcessRecord {
        uid: ProcessUid::parse(&column::<String>(row, 0)?).ok_or("its uid is not one of ours")?,
        container: ContainerUid::parse(&column::<String>(row, 1)?).ok_or("its container is not one of ours")?,
        id: ProcessId::new(column::<String>(row, 2)?).map_err(|error| error.to_string())?,
        spec: json(row, 3)?,
        state: json(row, 4)?,
        seen: column(row, 5)?,
        created_at: json(row, 6)?,
        ended_at: json(row, 7)?,
    })
}

fn sandbox(row: &Row<'_>) -> Result<SandboxRecord, String> {
    let container: Option<String> = column(row, 2)?;
    let container = match container {
        None => None,
        Some(uid) => Some(ContainerUid::parse(&uid).ok_or("its container is not one of ours")?),
    };
    let id = SandboxId::parse(&column::<String>(row, 0)?).ok_or("its id is not one of ours")?;
    Ok(SandboxRecord { id, kind: json(row, 1)?, container })
}

/// Disk space that is given up when the rest is used up.
struct Reserve {
    path: Option<PathBuf>,
    there: bool,
    pretend_full: bool,
}

impl Reserve {
    fn of(ledger: Option<&Path>) -> Self {
        let mut reserve = Self { path: ledger.map(|path| beside(path, ".reserve")), there: false, pretend_full: false };
        reserve.ensure();
        reserve
    }

    /// Whether the reserve is there; made where it is not.
    fn ensure(&mut self) -> bool {
        let Some(path) = &self.path else { return !self.pretend_full };
        if self.pretend_full {
            return false;
        }
        if !self.there {
            let make = || -> std::io::Result<()> {
                let mut file = private_file(path)?;
                if file.metadata()?.len() == RESERVE_BYTES as u64 {
                    return Ok(());
                }
                // Not zeros: a file system that compresses would keep nothing back.
                let mut noise = vec![0u8; RESERVE_BYTES];
                let mut word = 0x9e37_79b9_7f4a_7c15_u64;
                for chunk in noise.chunks_mut(8) {
                    word ^= word << 13;
                    word ^= word >> 7;
                    word ^= word << 17;
                    chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
                }
                file.write_all(&noise)?;
                file.sync_data()
            };
            self.there = match make() {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(%error, "no space can be kept back for the ledger; new records are refused");
                    let _ = std::fs::remove_file(path);
                    false
                }
            };
        }
        self.there
    }

    /// Gives the space up; whether there was any.
    fn release(&mut self) -> bool {
        let Some(path) = self.path.as_ref().filter(|_| self.there) else { return false };
        tracing::warn!("the disk is full; the ledger uses the space that it kept back");
        self.there = false;
        std::fs::remove_file(path).is_ok()
    }
}
