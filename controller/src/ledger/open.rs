//! Opening a ledger, or refusing to, with the reason and the remedy.

use super::store::{LOG_PAGES, Store};
use super::{LedgerError, schema};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A process that was just forked holds its parent's lock until it executes: what looks taken is
/// looked at a few times.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(30);

/// Opens the ledger at `path`, or makes one where there is no file.
pub fn open(path: &Path) -> Result<Store, LedgerError> {
    let lock = lock(path)?;
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => {
            let reason = "it is not a file".into();
            return Err(LedgerError::NotALedger { path: path.into(), reason });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path)?,
        Err(error) => return Err(cannot_open(path, error)),
    }
    let mut connection = connect(path).map_err(|error| refusal(path, &error))?;
    inspect(path, &connection)?;
    configure(&connection).map_err(|error| refusal(path, &error))?;
    schema::migrate(&mut connection).map_err(|error| refusal(path, &error))?;
    Ok(Store::new(connection, Some(path.into()), Some(lock)))
}

/// A ledger without a file.
pub fn in_memory() -> Store {
    let mut connection = Connection::open_in_memory().expect("SQLite makes a database in memory");
    schema::migrate(&mut connection).expect("a new database takes the layout");
    Store::new(connection, None, None)
}

/// `path` with `suffix` behind its name.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A new file that nobody else can read.
pub fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn cannot_open(path: &Path, error: impl ToString) -> LedgerError {
    LedgerError::CannotOpen { path: path.into(), reason: error.to_string() }
}

/// One gardend a ledger. The lock goes with the process that holds it, however that ends.
fn lock(path: &Path) -> Result<File, LedgerError> {
    let mut file = private_file(&beside(path, ".lock")).map_err(|error| cannot_open(path, error))?;
    let mut locked = file.try_lock();
    for _ in 0..LOCK_TRIES {
        if !matches!(locked, Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(LOCK_PAUSE);
        locked = file.try_lock();
    }
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // Told where it can be read; the refusal does not depend on it.
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok());
            let holder = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
            return Err(LedgerError::Locked { path: path.into(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(cannot_open(path, error)),
    }
    // For people and for the message above only: a full disk is no reason to refuse.
    let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// Makes a new ledger under another name first, so that a file under the ledger's own name always
/// is a whole one: an empty or torn one was damaged, and is refused rather than used.
fn create(path: &Path) -> Result<(), LedgerError> {
    let new = beside(path, ".new");
    let make = || -> Result<(), Box<dyn std::error::Error>> {
        for leftover in [new.clone(), beside(&new, "-journal")] {
            match std::fs::remove_file(leftover) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        let file = private_file(&new)?;
        let mut connection = connect(&new)?;
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.pragma_update(None, "application_id", schema::APPLICATION_ID)?;
        schema::migrate(&mut connection)?;
        connection.close().map_err(|(_, error)| error)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(())
    };
    make().map_err(|error| cannot_open(path, error))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags)
}

fn inspect(path: &Path, connection: &Connection) -> Result<(), LedgerError> {
    let ask = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    // No one else may hold it, so no shared memory file is needed either.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(|error| refusal(path, &error))?;
    let application = ask("application_id").map_err(|error| refusal(path, &error))?;
    let length = std::fs::metadata(path).map_err(|error| cannot_open(path, error))?.len();
    if length == 0 {
        return Err(LedgerError::Corrupt { path: path.into(), reason: "it is empty".into() });
    }
    if application != i64::from(schema::APPLICATION_ID) {
        let reason = format!("it is a database of application {application:#x}");
        return Err(LedgerError::NotALedger { path: path.into(), reason });
    }
    let found = schema::version(connection).map_err(|error| refusal(path, &error))?;
    if found > schema::newest() {
        return Err(LedgerError::Newer { path: path.into(), found, known: schema::newest() });
    }
    let verdict = connection.pragma_query_value(None, "quick_check", |row| row.get::<_, String>(0));
    match verdict.map_err(|error| refusal(path, &error))? {
        ok if ok == "ok" => Ok(()),
        reason => Err(LedgerError::Corrupt { path: path.into(), reason }),
    }
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // The writer does that when it has nothing else to do; this is the bound if it never has.
    connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES as i64)?;
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn refusal(path: &Path, error: &rusqlite::Error) -> LedgerError {
    let reason = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => LedgerError::NotALedger { path: path.into(), reason },
        Some(ErrorCode::DatabaseCorrupt) => LedgerError::Corrupt { path: path.into(), reason },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            let holder = " or another program".into();
            LedgerError::Locked { path: path.into(), holder }
        }
        _ => cannot_open(path, reason),
    }
}
