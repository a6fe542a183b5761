//! Reading a ledger that another gardend may have open: of a copy, since nobody else may open the
//! file itself while that one does.
//!
//! Rows go into the write-ahead log first; the database is written when that is moved into it. So a
//! copy of both is whole where neither the database nor the log's beginning has changed meanwhile;
//! what is appended to the log while it is copied is either in it or not.

use super::open::beside;
use super::store::Store;
use super::{Contents, LedgerError, schema};
use rusqlite::{Connection, OpenFlags};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How often a copy is tried; each time something was written just then.
const TRIES: u32 = 20;
/// Bytes at the beginning of a log, which are others once it was begun anew.
const HEADER: usize = 32;

/// All that the ledger at `path` holds; nothing where there is none.
pub fn peek(path: &Path) -> Result<Contents, LedgerError> {
    let cannot =
        |error: &dyn std::fmt::Display| LedgerError::CannotOpen { path: path.into(), reason: error.to_string() };
    if !path.exists() {
        return Ok(Contents::default());
    }
    let scratch = Scratch::make().map_err(|error| cannot(&error))?;
    let copy = scratch.0.join("ledger.db");
    for _ in 0..TRIES {
        let before = Stamp::of(path);
        let copied = copy_both(path, &copy);
        if before == Stamp::of(path) {
            copied.map_err(|error| cannot(&error))?;
            return read(&copy, path);
        }
    }
    Err(cannot(&"it is written to all the time; try again"))
}

fn copy_both(path: &Path, copy: &Path) -> io::Result<()> {
    fs::copy(path, copy)?;
    let log = "-wal";
    match fs::copy(beside(path, log), beside(copy, log)) {
        // There is none beside a ledger that was closed well.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let _ = fs::remove_file(beside(copy, log));
            Ok(())
        }
        copied => copied.map(drop),
    }
}

fn read(copy: &Path, path: &Path) -> Result<Contents, LedgerError> {
    let corrupt = |error: &dyn std::fmt::Display| LedgerError::Corrupt { path: path.into(), reason: error.to_string() };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(copy, flags).map_err(|error| corrupt(&error))?;
    let (found, known) = (schema::version(&connection).map_err(|error| corrupt(&error))?, schema::newest());
    if found > known {
        return Err(LedgerError::Newer { path: path.into(), found, known });
    }
    schema::migrate(&mut connection).map_err(|error| corrupt(&error))?;
    Store::new(connection, None, None).load().map_err(|error| match error {
        LedgerError::Corrupt { reason, .. } => corrupt(&reason),
        other => other,
    })
}

/// What is another once the copy may be torn.
#[derive(PartialEq, Eq)]
struct Stamp {
    database: Option<(u64, SystemTime)>,
    log: Vec<u8>,
}

impl Stamp {
    fn of(path: &Path) -> Self {
        let database = fs::metadata(path).and_then(|found| Ok((found.len(), found.modified()?))).ok();
        let mut log = Vec::new();
        if let Ok(file) = File::open(beside(path, "-wal")) {
            // What cannot be read is as if it were not there, both times.
            let _ = file.take(HEADER as u64).read_to_end(&mut log);
        }
        Self { database, log }
    }
}

/// A folder that nobody else can look into: records may hold secrets.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> io::Result<Self> {
        let chance = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
        let folder = std::env::temp_dir().join(format!("gardend-{chance:016x}"));
        DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Whoever cleans the folder of temporary files finds it.
        let _ = fs::remove_dir_all(&self.0);
    }
}
