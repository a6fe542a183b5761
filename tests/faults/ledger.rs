//! A ledger that cannot be used stops the start with the file's name and what to do; a disk that
//! is full refuses new containers and keeps serving the rest.

use crate::rootfs;
use crate::server::Server;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount, unmount};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A small file system at a folder, taken away when dropped.
struct Small(PathBuf);

impl Small {
    fn at(folder: PathBuf, size: &str) -> Self {
        let options = std::ffi::CString::new(format!("mode=0711,size={size}")).expect("no NUL");
        mount("tmpfs", &folder, "tmpfs", MountFlags::empty(), options.as_c_str()).expect("root may mount");
        mount_change(&folder, MountPropagationFlags::PRIVATE).expect("root may mount");
        Self(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Starts a server once, so that it has a ledger, and ends it.
fn used() -> Server {
    let mut server = Server::start(&["--pool-size", "0"]);
    let (status, _) = server.terminate();
    assert!(status.success(), "{status}");
    server
}

/// Fails unless gardend refuses to start, naming the ledger and holding the words.
fn says(server: &Server, words: &[&str]) {
    let (status, said) = server.refused();
    assert!(!status.success(), "it started: {said}");
    for word in [server.ledger().to_str().expect("UTF-8")].iter().chain(words) {
        assert!(said.contains(word), "{word:?} is not in what it said: {said}");
    }
}

#[test]
fn a_corrupt_ledger_stops_the_start_and_is_left_as_it_is() {
    let server = used();
    let ledger = server.ledger();
    for name in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{name}", ledger.display()));
    }
    let mut content = fs::read(&ledger).expect("there is a ledger");
    content[..512].fill(0x55);
    fs::write(&ledger, &content).expect("the file is ours");
    says(&server, &[]);
    assert!(fs::read(&ledger).expect("it is there") == content, "the file was changed");
}

#[test]
fn a_ledger_that_is_damaged_in_its_middle_is_not_taken_for_a_good_one() {
    let server = used();
    let ledger = server.ledger();
    let mut content = fs::read(&ledger).expect("there is a ledger");
    assert!(content.len() > 8192, "a ledger of {} bytes", content.len());
    content[4096..].fill(0xAA);
    fs::write(&ledger, &content).expect("the file is ours");
    for name in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{name}", ledger.display()));
    }
    says(&server, &[]);
}

#[test]
fn a_ledger_of_a_newer_gardend_stops_the_start() {
    let server = used();
    let ledger = rusqlite::Connection::open(server.ledger()).expect("there is a ledger");
    ledger.pragma_update(None, "user_version", 9999).expect("the file is ours");
    drop(ledger);
    says(&server, &["9999", "newer"]);
}

#[test]
fn a_second_gardend_on_the_same_folders_stops_and_the_first_goes_on() {
    let server = Server::start(&["--pool-size", "0"]);
    let mut second = std::process::Command::new(env!("CARGO_BIN_EXE_gardend"));
    second
        .args(["serve", "--listen", "127.0.0.1:0", "--state-dir"])
        .arg(server.state())
        .arg("--run-dir")
        .arg(server.run());
    let (status, said) = crate::server::refused(second);
    assert!(!status.success(), "it started: {said}");
    let names = [server.state(), server.run()].iter().any(|path| said.contains(path.to_str().expect("UTF-8")));
    assert!(names, "neither folder is named: {said}");
    server.garden.ping().expect("the first serves on");
}

#[test]
fn a_read_only_state_folder_stops_the_start() {
    let server = Server::new(&["--pool-size", "0"]);
    let small = Small::at(server.state(), "16m");
    mount_remount(&small.0, MountFlags::RDONLY, c"").expect("root may mount");
    let (status, said) = server.refused();
    assert!(!status.success(), "it started: {said}");
    assert!(said.contains(server.state().to_str().expect("UTF-8")), "{said}");
}

/// Fills a file system to its last byte.
fn fill(folder: &Path) -> PathBuf {
    let path = folder.join("filler");
    let mut file = fs::File::create(&path).expect("there is room for a name");
    let mut chunk = vec![0u8; 64 << 10];
    while !chunk.is_empty() {
        if file.write_all(&chunk).is_err() {
            chunk.truncate(chunk.len() / 2);
        }
    }
    path
}

#[test]
fn a_full_disk_refuses_new_containers_and_the_rest_goes_on() {
    let mut server = Server::new(&["--pool-size", "0"]);
    let small = Small::at(server.state(), "48m");
    let root = rootfs::unprivileged(&server.scratch().join("root"));
    server.restart();
    let garden = server.garden;
    garden.create("before", &root).expect("a container");
    let mut cat = garden.run("before", "cat", "cat", false).expect("a process");

    let filler = fill(&small.0);
    // More than what the ledger's log may have had room for before.
    let large = "x".repeat(900 << 10);
    let spec = json!({ "handle": "during", "image": { "uri": root }, "properties": { "large": large } });
    let refused = garden.call("POST", "/containers", &spec).expect_err("there is no room");
    println!("a create on a full disk: {}", refused.message());
    let lower = refused.message().to_lowercase();
    assert!(lower.contains("disk") || lower.contains("space"), "{}", refused.message());
    assert_eq!(garden.list(), ["before"]);
    garden.info("before").expect("an info");
    cat.input("still flows\n").expect("input");
    cat.end_input().expect("the end of the input");
    assert_eq!(cat.status().expect("its status"), 0);

    fs::remove_file(filler).expect("the file is ours");
    garden.create("after", &root).expect("there is room again");
    garden.create("during", &root).expect("its handle is free");
    for handle in ["before", "during", "after"] {
        garden.destroy(handle).expect("a destroy");
    }
    crate::census::settles(&server, 0, 0);
    drop(server);
    drop(small);
}
