//! The ledger on real files: what it keeps, what it refuses, and how it says so.

use super::*;
use crate::record::{
    Addresses, ContainerSpec, ContainerStatus, Desired, ExitStatus, Handle, IcmpMatch, Origin, PortIn, ProcessId,
    ProcessSpec, RuleOut, RuleProtocol, SandboxKind,
};
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

fn container(handle: &str) -> ContainerRecord {
    ContainerRecord {
        uid: ContainerUid::generate(),
        handle: Handle::new(handle).unwrap(),
        generation: 1,
        desired: Desired::Present,
        spec: ContainerSpec { env: vec!["A=b".into()], ..ContainerSpec::default() },
        properties: [("k".to_owned(), "v".to_owned())].into(),
        grace_time: Some(Duration::from_millis(1500)),
        stop: None,
        answered: true,
        created_at: SystemTime::now(),
        origin: Origin::Garden,
        sandbox: Some(SandboxId::generate()),
        addresses: None,
        ports_in: Vec::new(),
        rules_out: Vec::new(),
        status: ContainerStatus::default(),
    }
}

fn networked(record: ContainerRecord) -> ContainerRecord {
    let addresses = Addresses {
        address: "10.80.0.2".parse().unwrap(),
        subnet: "10.80.0.0/30".parse().unwrap(),
        gateway: "10.80.0.1".parse().unwrap(),
        ipv6: Some("fd00::2".parse().unwrap()),
    };
    let rule = RuleOut {
        protocol: RuleProtocol::Icmpv6,
        networks: vec![("fd00::".parse().unwrap(), "fd00::ff".parse().unwrap())],
        ports: vec![(1, 65535)],
        icmp: Some(IcmpMatch { kind: 128, code: Some(0) }),
        log: true,
    };
    let ports_in = vec![PortIn { host_port: 61001, container_port: 80 }];
    ContainerRecord { addresses: Some(addresses), ports_in, rules_out: vec![rule], ..record }
}

fn process(container: &ContainerUid) -> ProcessRecord {
    ProcessRecord {
        uid: ProcessUid::generate(),
        id: ProcessId::generate(),
        container: container.clone(),
        spec: ProcessSpec { path: "/bin/sh".into(), env: vec!["SECRET=hush".into()], ..ProcessSpec::default() },
        state: ProcessState::Pending,
        seen: false,
        created_at: Some(std::time::SystemTime::UNIX_EPOCH),
        ended_at: None,
    }
}

fn insert(record: &ContainerRecord) -> Vec<Change> {
    vec![Change::InsertContainer(Box::new(record.clone()))]
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    (folder, path)
}

fn refusal(path: &Path) -> LedgerError {
    match Ledger::open(path) {
        Ok(_) => panic!("it was opened"),
        Err(refusal) => refusal,
    }
}

/// Every refusal names the file.
fn assert_names(refusal: &LedgerError, path: &Path, words: &str) {
    let text = refusal.to_string();
    assert!(text.contains(&path.display().to_string()) && text.contains(words), "{text}");
}

#[tokio::test]
async fn everything_is_there_after_a_reopen_but_the_environment_of_processes() {
    let (_folder, path) = folder();
    let record = networked(container("c"));
    let (mut first, second) = (process(&record.uid), process(&record.uid));
    let sandbox =
        SandboxRecord { id: SandboxId::generate(), kind: SandboxKind::Privileged, container: Some(record.uid.clone()) };
    let blank = SandboxRecord { id: SandboxId::generate(), kind: SandboxKind::Unprivileged, container: None };
    {
        let ledger = Ledger::open(&path).unwrap();
        ledger.commit(insert(&record), Durable::Reboot).await.unwrap();
        let rows = vec![
            Change::InsertProcess(Box::new(first.clone())),
            Change::InsertProcess(Box::new(second.clone())),
            Change::PutSandbox(sandbox.clone()),
            Change::PutSandbox(blank.clone()),
            Change::BootId("boot".into()),
        ];
        ledger.commit(rows, Durable::Crash).await.unwrap();
        first.state = ProcessState::Exited(ExitStatus::Signal(9));
        first.seen = true;
        first.ended_at = Some(SystemTime::now());
        let (uid, state) = (first.uid.clone(), first.state.clone());
        let update = Change::UpdateProcess { uid, state, seen: true, ended_at: first.ended_at };
        ledger.commit(vec![update, Change::DeleteProcess(second.uid)], Durable::Crash).await.unwrap();
    }
    let ledger = Ledger::open(&path).unwrap();
    let contents = ledger.load().await.unwrap();
    first.spec.env.clear();
    assert_eq!(contents.containers, std::slice::from_ref(&record));
    assert_eq!(contents.processes, [first]);
    assert_eq!(contents.sandboxes.len(), 2);
    assert!(contents.sandboxes.contains(&sandbox) && contents.sandboxes.contains(&blank));
    assert_eq!(contents.boot_id.as_deref(), Some("boot"));
    ledger.commit(vec![Change::DeleteContainer(record.uid)], Durable::Crash).await.unwrap();
    let contents = ledger.load().await.unwrap();
    assert!(contents.containers.is_empty() && contents.processes.is_empty());
    drop(ledger);
    let bytes: Vec<u8> = fs::read(&path).unwrap();
    assert!(!bytes.windows(4).any(|window| window == b"hush"));
}

#[tokio::test]
async fn a_container_that_was_recorded_before_there_were_networks_has_none() {
    let (_folder, path) = folder();
    let record = container("c");
    {
        let ledger = Ledger::open(&path).unwrap();
        ledger.commit(insert(&record), Durable::Reboot).await.unwrap();
    }
    let connection = rusqlite::Connection::open(&path).unwrap();
    let before: String = connection.query_row("SELECT record FROM containers", [], |row| row.get(0)).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&before).unwrap();
    for field in ["addresses", "ports_in", "rules_out"] {
        value.as_object_mut().unwrap().remove(field).unwrap();
    }
    connection.execute("UPDATE containers SET record = ?1", [value.to_string()]).unwrap();
    drop(connection);
    let ledger = Ledger::open(&path).unwrap();
    assert_eq!(ledger.load().await.unwrap().containers, [record]);
}

#[tokio::test]
async fn nobody_else_can_read_its_files() {
    let (folder, path) = folder();
    let ledger = Ledger::open(&path).unwrap();
    ledger.commit(insert(&container("c")), Durable::Reboot).await.unwrap();
    let mut files = 0;
    for file in fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", file.path());
        files += 1;
    }
    // The database, its log, the lock and the reserve.
    assert_eq!(files, 4);
}

#[tokio::test]
async fn a_ledger_that_another_gardend_has_is_refused_with_its_pid_and_then_free() {
    let (_folder, path) = folder();
    let ledger = Ledger::open(&path).unwrap();
    let refused = refusal(&path);
    assert!(matches!(refused, LedgerError::Locked { .. }));
    assert_names(&refused, &path, &format!("(process {})", std::process::id()));
    drop(ledger);
    Ledger::open(&path).unwrap();
}

#[test]
fn what_is_no_ledger_is_refused_and_left_as_it_was() {
    for junk in [b"".as_slice(), b"not a database, but long enough to be looked at as one".as_slice(), &[7; 8192]] {
        let (_folder, path) = folder();
        fs::write(&path, junk).unwrap();
        let refused = refusal(&path);
        assert!(matches!(refused, LedgerError::NotALedger { .. } | LedgerError::Corrupt { .. }), "{refused}");
        assert_names(&refused, &path, "move it away");
        assert_eq!(fs::read(&path).unwrap(), junk);
    }
    let (_folder, path) = folder();
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let before = fs::read(&path).unwrap();
    assert_names(&refusal(&path), &path, "not one of gardend's");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_damaged_ledger_is_refused_wherever_the_damage_is() {
    let (_folder, path) = folder();
    {
        let ledger = Ledger::open(&path).unwrap();
        for n in 0..200 {
            ledger.commit(insert(&container(&format!("c{n}"))), Durable::Crash).await.unwrap();
        }
    }
    let whole = fs::read(&path).unwrap();
    let pages = whole.len() / 4096;
    assert!(pages > 10);
    let mut refused = 0;
    for page in 1..pages {
        let mut damaged = whole.clone();
        damaged[page * 4096..(page + 1) * 4096].fill(0xA5);
        fs::write(&path, &damaged).unwrap();
        match Ledger::open(&path) {
            Ok(ledger) => {
                // Nothing of ours was on that page, or its rows are not understood.
                let contents = ledger.load().await;
                assert!(contents.is_err() || contents.unwrap().containers.len() == 200);
            }
            Err(error) => {
                assert!(matches!(error, LedgerError::Corrupt { .. }), "{error}");
                assert_names(&error, &path, "damaged");
                assert_eq!(fs::read(&path).unwrap(), damaged, "it was changed");
                refused += 1;
            }
        }
    }
    assert!(refused > pages / 2, "{refused} of {pages}");
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(refusal(&path), LedgerError::Corrupt { .. }));
    fs::write(&path, whole).unwrap();
    assert_eq!(Ledger::open(&path).unwrap().load().await.unwrap().containers.len(), 200);
}

#[tokio::test]
async fn a_row_that_is_not_understood_is_named() {
    let (_folder, path) = folder();
    drop(Ledger::open(&path).unwrap());
    let uid = ContainerUid::generate();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute("INSERT INTO containers VALUES (?1, 'h', '{}')", [uid.as_str()]).unwrap();
    drop(connection);
    let refused = Ledger::open(&path).unwrap().load().await.unwrap_err();
    assert_names(&refused, &path, &format!("the row of {uid}"));
}

#[test]
fn a_ledger_of_a_newer_gardend_is_refused() {
    let (_folder, path) = folder();
    drop(Ledger::open(&path).unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let refused = refusal(&path);
    assert!(matches!(refused, LedgerError::Newer { found: 99, .. }), "{refused}");
    assert_names(&refused, &path, "version 99");
}

#[test]
fn a_folder_that_cannot_be_written_is_refused() {
    let (folder, path) = folder();
    fs::create_dir(&path).unwrap();
    assert_names(&refusal(&path), &path, "not a file");
    let absent = folder.path().join("absent/ledger.db");
    assert_names(&refusal(&absent), &absent, "check that the folder exists");
    // Read-only for root too.
    let read_only = Path::new("/proc/ledger.db");
    assert!(matches!(refusal(read_only), LedgerError::CannotOpen { .. }));
}

#[test]
fn a_creation_that_was_cut_off_is_made_anew() {
    let (_folder, path) = folder();
    fs::write(open::beside(&path, ".new"), b"half").unwrap();
    fs::write(open::beside(&path, ".new-journal"), b"half").unwrap();
    Ledger::open(&path).unwrap();
}

#[tokio::test]
async fn one_that_does_not_fit_fails_alone_and_later_ones_are_written() {
    let (_folder, path) = folder();
    let ledger = Ledger::open(&path).unwrap();
    let here = container("here");
    ledger.commit(insert(&here), Durable::Reboot).await.unwrap();
    ledger.pretend_full(true);
    let refused = ledger.submit(insert(&container("refused")), Durable::Reboot);
    let ended = ledger.submit(vec![Change::DeleteContainer(here.uid)], Durable::Crash);
    assert!(matches!(refused.written().await, Err(LedgerError::Write { full: true, .. })));
    ended.written().await.unwrap();
    assert!(ledger.health().await.is_err());
    ledger.pretend_full(false);
    ledger.health().await.unwrap();
    ledger.commit(insert(&container("later")), Durable::Reboot).await.unwrap();
    let handles: Vec<_> = ledger.load().await.unwrap().containers.into_iter().map(|c| c.handle.to_string()).collect();
    assert_eq!(handles, ["later"]);
}

#[tokio::test]
async fn thousands_at_once_share_their_transactions_and_keep_their_order() {
    let (_folder, path) = folder();
    let ledger = Ledger::open(&path).unwrap();
    let mut record = container("c");
    ledger.commit(insert(&record), Durable::Crash).await.unwrap();
    let begun = std::time::Instant::now();
    let commits: Vec<_> = (2..2_000)
        .map(|generation| {
            record.generation = generation;
            ledger.submit(vec![Change::UpdateContainer(Box::new(record.clone()))], Durable::Reboot)
        })
        .collect();
    for commit in commits {
        commit.written().await.unwrap();
    }
    println!("1,998 synced commits in {:?}", begun.elapsed());
    assert_eq!(ledger.load().await.unwrap().containers[0].generation, 1_999);
}

const CHILD: &str = "GARDEND_LEDGER_TEST_CHILD";

/// Not a test of its own: what [`what_was_answered_survives_kill_9`] kills.
#[tokio::test]
async fn child_that_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let ledger = Ledger::open(Path::new(&path)).unwrap();
    for n in 0..1_000_000_u64 {
        let durable = if n % 10 == 0 { Durable::Reboot } else { Durable::Crash };
        ledger.commit(insert(&container(&format!("c{n}"))), durable).await.unwrap();
        println!("written {n}");
    }
}

#[tokio::test]
async fn what_was_answered_survives_kill_9() {
    use std::io::{BufRead, BufReader};
    let (_folder, path) = folder();
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["ledger::tests::child_that_writes_until_it_is_killed", "--exact", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let enough = format!("written {}", 100 + round * 37);
        let mut written = 0;
        while let Some(Ok(line)) = lines.next() {
            // The test harness writes its own words before the first.
            written += u64::from(line.contains("written "));
            if line.ends_with(&enough) {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(written > 100);
        let ledger = Ledger::open(&path).unwrap();
        let contents = ledger.load().await.unwrap();
        // It may have written one whose answer was not told any more.
        let kept = contents.containers.len() as u64;
        assert!(kept == written || kept == written + 1, "{kept} kept, {written} answered");
        let all = contents.containers.into_iter().map(|record| Change::DeleteContainer(record.uid));
        ledger.commit(all.collect(), Durable::Crash).await.unwrap();
    }
}

/// A small file system of its own, where the machine lets us mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path) -> Option<Self> {
        let mount = ["-t", "tmpfs", "-o", "size=40m,mode=700", "ledger-test"];
        let mounted = Command::new("mount").args(mount).arg(folder).stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(folder.into()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_disk_that_is_really_full_refuses_new_records_and_still_takes_ends() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(folder.path()) else {
        println!("left out: no file system can be mounted here");
        return;
    };
    let path = folder.path().join("ledger.db");
    let ledger = Ledger::open(&path).unwrap();
    let mut kept = Vec::new();
    let error = loop {
        let mut record = container(&format!("c{}", kept.len()));
        record.properties.insert("big".into(), "x".repeat(20_000));
        match ledger.commit(insert(&record), Durable::Reboot).await {
            Ok(()) => kept.push(record),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LedgerError::Write { full: true, .. }), "{error:?}");
    assert!(!kept.is_empty());
    // Somebody else takes the rest, whenever there is some.
    let fill = || {
        let append = || fs::OpenOptions::new().create(true).append(true).open(folder.path().join("filler"));
        for piece in [256 * 1024, 512] {
            let piece = vec![1; piece];
            while append().and_then(|mut file| std::io::Write::write_all(&mut file, &piece)).is_ok() {}
        }
    };
    fill();
    // Room for the ends of a few hundred is kept back.
    for n in 0..300 {
        let delete = vec![Change::DeleteProcess(ProcessUid::generate()), Change::BootId(n.to_string())];
        ledger.commit(delete, Durable::Reboot).await.unwrap();
    }
    for record in kept.iter_mut().take(50) {
        record.desired = Desired::Absent;
        ledger.commit(vec![Change::UpdateContainer(Box::new(record.clone()))], Durable::Reboot).await.unwrap();
    }
    fill();
    assert!(ledger.health().await.is_err());
    assert!(ledger.commit(insert(&container("new")), Durable::Reboot).await.is_err());
    let before = ledger.load().await.unwrap().containers.len();
    drop(ledger);
    fill();
    // A start on a full disk works, to serve what is there.
    let ledger = Ledger::open(&path).unwrap();
    assert_eq!(ledger.load().await.unwrap().containers.len(), before);
    assert!(ledger.commit(insert(&container("new")), Durable::Reboot).await.is_err());
    fs::remove_file(folder.path().join("filler")).unwrap();
    for record in kept.iter().skip(1) {
        ledger.commit(vec![Change::DeleteContainer(record.uid.clone())], Durable::Crash).await.unwrap();
    }
    // What the rows took up is room again.
    ledger.health().await.unwrap();
    ledger.commit(insert(&container("new")), Durable::Reboot).await.unwrap();
    assert_eq!(ledger.load().await.unwrap().containers.len(), 2);
}

proptest! {
    #[test]
    fn any_record_is_read_as_it_was_written(
        handle in "[a-zA-Z0-9 ü\"'\\\\-]{1,40}",
        key in any::<String>(),
        value in any::<String>(),
        millis in any::<Option<u32>>(),
    ) {
        let mut record = container("c");
        record.handle = Handle::new(handle).unwrap();
        record.properties.insert(key, value);
        record.grace_time = millis.map(|millis| Duration::from_millis(millis.into()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let contents = runtime.block_on(async {
            let ledger = Ledger::in_memory();
            ledger.commit(insert(&record), Durable::Crash).await.unwrap();
            ledger.load().await.unwrap()
        });
        prop_assert_eq!(contents.containers, vec![record]);
    }
}

#[tokio::test]
async fn a_ledger_in_use_can_be_peeked_into_and_one_that_is_not_there_is_empty() {
    let (_folder, path) = folder();
    assert!(Ledger::peek(&path).unwrap().containers.is_empty());
    let ledger = Ledger::open(&path).unwrap();
    let record = networked(container("c"));
    ledger.commit(insert(&record), Durable::Crash).await.unwrap();
    ledger.commit(vec![Change::Drain(Some(Drain::Destroy))], Durable::Reboot).await.unwrap();
    let seen = Ledger::peek(&path).unwrap();
    assert_eq!((seen.containers, seen.drain), (vec![record.clone()], Some(Drain::Destroy)));
    ledger.commit(vec![Change::Drain(None)], Durable::Reboot).await.unwrap();
    drop(ledger);
    let closed = Ledger::peek(&path).unwrap();
    assert_eq!((closed.containers, closed.drain), (vec![record], None));
}

#[tokio::test]
async fn what_is_peeked_at_while_it_is_written_is_whole() {
    let (_folder, path) = folder();
    let ledger = Ledger::open(&path).unwrap();
    let writing = tokio::spawn({
        let ledger = ledger.clone();
        async move {
            for n in 0..2000 {
                let record = container(&format!("c{n}"));
                ledger.commit(insert(&record), Durable::Crash).await.unwrap();
                ledger.commit(vec![Change::DeleteContainer(record.uid)], Durable::Crash).await.unwrap();
            }
        }
    });
    let mut most = 0;
    while !writing.is_finished() {
        let path = path.clone();
        let seen = tokio::task::spawn_blocking(move || Ledger::peek(&path)).await.unwrap().unwrap();
        most = most.max(seen.containers.len());
    }
    writing.await.unwrap();
    assert!(most <= 1, "{most} at once");
}
