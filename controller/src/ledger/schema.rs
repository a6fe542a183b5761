//! The layout of the tables, by version. A version, once released, is never changed: the next one
//! is appended.

use rusqlite::Connection;

/// "Gard", so that another program's database is not taken for ours.
pub const APPLICATION_ID: i32 = 0x4761_7264;

/// The steps from each version to the next.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE containers (
        uid TEXT PRIMARY KEY,
        handle TEXT NOT NULL,
        record TEXT NOT NULL
    );
    CREATE TABLE processes (
        uid TEXT PRIMARY KEY,
        container TEXT NOT NULL,
        id TEXT NOT NULL,
        spec TEXT NOT NULL,
        state TEXT NOT NULL,
        seen INTEGER NOT NULL,
        ended_at TEXT
    );
    CREATE INDEX processes_of_container ON processes (container);
    CREATE TABLE sandboxes (
        id TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        container TEXT
    );
",
    "
    ALTER TABLE processes ADD COLUMN created_at TEXT NOT NULL DEFAULT 'null';
",
];

/// The newest version that this gardend knows.
pub fn newest() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

/// The version of an open database.
pub fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Takes a database from whatever version it has to the newest, each step in a transaction.
pub fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let from = version(connection)?;
    for (index, step) in MIGRATIONS.iter().enumerate().skip(from as usize) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", index as u32 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}
