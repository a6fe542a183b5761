//! Files in and out of a real place, against GNU tar: what it writes is unpacked as it would, and
//! what is packed it reads.

mod support;

use garden_init::packet::{self, Packet};
use garden_init::wire::{self, Direction, Request, TransferFailure, TransferReport, TransferSpec};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Client, Place, spec, until};

/// A transfer that was asked for.
struct Transfer {
    stream: Option<File>,
    report: OwnedFd,
}

fn begin(client: &Client, direction: Direction, user: &str, path: &str) -> Transfer {
    let (reading, writing) = std::io::pipe().unwrap();
    let (report, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let (ours, theirs): (OwnedFd, OwnedFd) = match direction {
        Direction::In => (writing.into(), reading.into()),
        Direction::Out => (reading.into(), writing.into()),
    };
    let spec = TransferSpec { direction, user: user.into(), path: path.into(), capabilities: u64::MAX };
    client.send(&Request::Transfer { spec }, &[theirs.as_fd(), far.as_fd()]);
    Transfer { stream: Some(ours.into()), report }
}

impl Transfer {
    /// `None` at its end.
    fn next(&self) -> Option<TransferReport> {
        let mut buffer = Vec::new();
        match packet::recv(self.report.as_fd(), &mut buffer).unwrap() {
            Packet::Message(_) => Some(wire::decode(&buffer).unwrap()),
            Packet::End => None,
        }
    }

    /// What it comes to, after it has begun or instead of it.
    fn result(mut self) -> Result<(), TransferFailure> {
        self.stream = None;
        loop {
            match self.next() {
                Some(TransferReport::Ready) => {}
                Some(TransferReport::Done) => return Ok(()),
                Some(TransferReport::Failed(failure)) => return Err(failure),
                None => panic!("it was killed"),
            }
        }
    }
}

fn unpack_as(client: &Client, user: &str, path: &str, stream: &[u8]) -> Result<(), TransferFailure> {
    let mut transfer = begin(client, Direction::In, user, path);
    // It may have ended already.
    let _ = transfer.stream.take().unwrap().write_all(stream);
    transfer.result()
}

fn unpack(client: &Client, path: &str, stream: &[u8]) -> Result<(), TransferFailure> {
    unpack_as(client, "", path, stream)
}

fn pack_as(client: &Client, user: &str, path: &str) -> Result<Vec<u8>, TransferFailure> {
    let mut transfer = begin(client, Direction::Out, user, path);
    let mut stream = Vec::new();
    transfer.stream.take().unwrap().read_to_end(&mut stream).unwrap();
    transfer.result().map(|()| stream)
}

fn pack(client: &Client, path: &str) -> Vec<u8> {
    pack_as(client, "", path).unwrap()
}

/// What GNU tar writes of a folder.
fn tar(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let made = Command::new("tar").arg("-C").arg(folder).args(["-cf", "-"]).args(arguments).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

/// What GNU tar says of a stream.
fn list(stream: &[u8], arguments: &[&str]) -> String {
    let mut tar = Command::new("tar")
        .args(arguments)
        .args(["--numeric-owner", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = tar.stdin.take().unwrap();
    let stream = stream.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&stream));
    let output = tar.wait_with_output().unwrap();
    assert!(output.status.success());
    writer.join().unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn names(stream: &[u8]) -> Vec<String> {
    let mut names: Vec<_> = list(stream, &["-t"]).lines().map(str::to_owned).collect();
    names.sort();
    names
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn scratch() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("garden-files-").tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn setfattr(path: &Path, name: &str, value: &[u8]) {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    rustix::fs::setxattr(path.as_c_str(), name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

fn getfattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = Vec::with_capacity(4096);
    rustix::fs::getxattr(path, name, rustix::buffer::spare_capacity(&mut value)).ok()?;
    Some(value)
}

#[track_caller]
fn fails_at(result: Result<(), TransferFailure>, expected: i32) {
    match result {
        Err(TransferFailure::File { errno, .. }) if errno == expected => {}
        other => panic!("{other:?} where errno {expected} was expected"),
    }
}

#[track_caller]
fn is_broken(result: Result<(), TransferFailure>, words: &str) {
    match result {
        Err(TransferFailure::Stream { reason }) if reason.contains(words) => {}
        other => panic!("{other:?} where {words:?} was expected"),
    }
}

#[test]
fn root_keeps_owners_modes_times_and_links() {
    let place = Place::start();
    let client = place.client();
    let folder = scratch();
    fs::create_dir(folder.path().join("d")).unwrap();
    fs::write(folder.path().join("d/file"), "content").unwrap();
    fs::hard_link(folder.path().join("d/file"), folder.path().join("d/second")).unwrap();
    symlink("/etc/passwd", folder.path().join("d/link")).unwrap();
    std::os::unix::fs::chown(folder.path().join("d/file"), Some(1234), Some(56)).unwrap();
    fs::set_permissions(folder.path().join("d/file"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(folder.path().join("d"), fs::Permissions::from_mode(0o1500)).unwrap();
    assert!(Command::new("mkfifo").arg(folder.path().join("d/pipe")).status().unwrap().success());
    for (path, time) in [("d/file", "@1000000000.25"), ("d", "@1100000000.5")] {
        let touched = Command::new("touch").args(["-d", time]).arg(folder.path().join(path)).status().unwrap();
        assert!(touched.success());
    }
    for format in ["gnu", "pax", "ustar", "v7"] {
        // The oldest has no pipes, and only a slash to tell folders by.
        let left_out = if format == "v7" { "--exclude=d/pipe" } else { "--exclude=nothing" };
        let arguments = ["--format", format, left_out, "d/file", "d/link", "d/second", "d"];
        let stream = tar(folder.path(), &arguments);
        let to = format!("/root/{format}");
        unpack(&client, &to, &stream).unwrap();
        let file = fs::metadata(place.path(&format!("{to}/d/file"))).unwrap();
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777, file.nlink()), (1234, 56, 0o6755, 2), "{format}");
        assert_eq!(file.mtime(), 1_000_000_000, "{format}");
        assert_eq!(file.mtime_nsec(), if format == "pax" { 250_000_000 } else { 0 });
        let second = fs::metadata(place.path(&format!("{to}/d/second"))).unwrap();
        assert_eq!(second.ino(), file.ino());
        let made = fs::metadata(place.path(&format!("{to}/d"))).unwrap();
        assert_eq!((made.mode() & 0o7777, made.mtime()), (0o1500, 1_100_000_000), "{format}");
        assert_eq!(fs::read_link(place.path(&format!("{to}/d/link"))).unwrap(), Path::new("/etc/passwd"));
        if format != "v7" {
            assert!(fs::metadata(place.path(&format!("{to}/d/pipe"))).unwrap().file_type().is_fifo());
        }
    }
}

#[test]
fn another_user_unpacks_files_of_its_own_into_folders_that_are_made_for_it() {
    let place = Place::start();
    let client = place.client();
    let folder = scratch();
    fs::write(folder.path().join("program"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(folder.path().join("program"), fs::Permissions::from_mode(0o4755)).unwrap();
    let stream = tar(folder.path(), &["program"]);
    // Below root's own folder, which alice cannot pass.
    unpack_as(&client, "alice", "/root/a/b", &stream).unwrap();
    unpack_as(&client, "alice", "here", &stream).unwrap();
    for (path, mode) in
        [("/root/a", 0o755), ("/root/a/b", 0o755), ("/root/a/b/program", 0o755), ("/home/alice/here/program", 0o755)]
    {
        let seen = fs::metadata(place.path(path)).unwrap();
        assert_eq!((seen.uid(), seen.gid(), seen.mode() & 0o7777), (1000, 100, mode), "{path}");
    }
    fails_at(unpack_as(&client, "alice", "/etc", &stream), libc::EACCES);
    assert_eq!(unpack_as(&client, "bob", "/tmp", &stream), Err(TransferFailure::UnknownUser));
    let unknown = TransferFailure::UnknownGroup { group: "nowhere".into() };
    assert_eq!(unpack_as(&client, "alice:nowhere", "/tmp", &stream), Err(unknown));
    assert_eq!(unpack_as(&client, "1000:63", "/tmp/as-audio", &stream), Ok(()));
    assert_eq!(fs::metadata(place.path("/tmp/as-audio/program")).unwrap().gid(), 63);
    fails_at(unpack(&client, "/etc/passwd", &stream), libc::ENOTDIR);
}

#[test]
fn names_of_any_length_pass_in_both_directions() {
    let place = Place::start();
    let client = place.client();
    let folder = scratch();
    let deep: String = (0..12).map(|level| format!("{level}-{}/", "x".repeat(60))).collect();
    fs::create_dir_all(folder.path().join(&deep)).unwrap();
    let long = format!("{deep}{}", "n".repeat(200));
    fs::write(folder.path().join(&long), "deep").unwrap();
    symlink("t".repeat(300), folder.path().join("link")).unwrap();
    fs::write(folder.path().join("ümläut \n \\ name"), "odd").unwrap();
    for format in ["gnu", "pax"] {
        let to = format!("/{format}");
        unpack(&client, &to, &tar(folder.path(), &["--format", format, "."])).unwrap();
        assert_eq!(fs::read_to_string(place.path(&format!("{to}/{long}"))).unwrap(), "deep");
        assert_eq!(fs::read_link(place.path(&format!("{to}/link"))).unwrap().as_os_str().len(), 300);
        let out = scratch();
        unpack_on_host(out.path(), &pack(&client, &format!("{to}/")));
        assert_eq!(fs::read_to_string(out.path().join(&long)).unwrap(), "deep");
        assert_eq!(fs::read_link(out.path().join("link")).unwrap().as_os_str().len(), 300);
        assert_eq!(fs::read_to_string(out.path().join("ümläut \n \\ name")).unwrap(), "odd");
    }
}

fn unpack_on_host(folder: &Path, stream: &[u8]) {
    let folder = folder.to_str().unwrap();
    list(stream, &["-x", "-p", "--same-owner", "--xattrs", "--xattrs-include=*", "-C", folder]);
}

#[test]
fn files_with_holes_come_whole_in_each_of_gnu_tar_s_ways() {
    let place = Place::start();
    let client = place.client();
    let folder = scratch();
    let file = File::create(folder.path().join("holes")).unwrap();
    for piece in 0..60_u64 {
        file.write_all_at(format!("piece {piece}").as_bytes(), piece * 1_000_000).unwrap();
    }
    file.set_len(100_000_000).unwrap();
    let expected = fs::read(folder.path().join("holes")).unwrap();
    let ways: [&[&str]; 4] = [
        &["--format=gnu"],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ];
    for (number, way) in ways.iter().enumerate() {
        let stream = tar(folder.path(), &[way, &["--sparse", "holes"][..]].concat());
        assert!(stream.len() < 2_000_000, "GNU tar did not see the holes");
        unpack(&client, &format!("/way{number}"), &stream).unwrap();
        let path = place.path(&format!("/way{number}/holes"));
        assert!(fs::read(&path).unwrap() == expected, "{way:?}");
        assert!(fs::metadata(&path).unwrap().blocks() * 512 < 2_000_000, "{way:?}");
    }
}

#[test]
fn attributes_and_capabilities_go_with_root_and_come_back() {
    let place = Place::start();
    let client = place.client();
    let folder = scratch();
    fs::write(folder.path().join("program"), "x").unwrap();
    setfattr(&folder.path().join("program"), "user.note", b"a=b\0c");
    // cap_net_raw, permitted and effective.
    let capabilities = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    setfattr(&folder.path().join("program"), "security.capability", &capabilities);
    let stream = tar(folder.path(), &["--xattrs", "--xattrs-include=*", "program"]);
    unpack(&client, "/to", &stream).unwrap();
    unpack_as(&client, "alice", "/home/alice/to", &stream).unwrap();
    let of_root = place.path("/to/program");
    assert_eq!(getfattr(&of_root, "user.note").as_deref(), Some(&b"a=b\0c"[..]));
    assert_eq!(getfattr(&of_root, "security.capability").as_deref(), Some(&capabilities[..]));
    let of_alice = place.path("/home/alice/to/program");
    assert_eq!(getfattr(&of_alice, "user.note").as_deref(), Some(&b"a=b\0c"[..]));
    assert_eq!(getfattr(&of_alice, "security.capability"), None);
    let out = scratch();
    unpack_on_host(out.path(), &pack(&client, "/to/program"));
    assert_eq!(getfattr(&out.path().join("program"), "user.note").as_deref(), Some(&b"a=b\0c"[..]));
    assert_eq!(getfattr(&out.path().join("program"), "security.capability").as_deref(), Some(&capabilities[..]));
}

#[test]
fn gzip_is_taken_whole_also_in_several_members() {
    let place = Place::start();
    let client = place.client();
    let folder = scratch();
    let content: Vec<u8> = (0..3_000_000_u32).map(|number| (number.wrapping_mul(number) >> 7) as u8).collect();
    fs::write(folder.path().join("file"), &content).unwrap();
    let stream = tar(folder.path(), &["file"]);
    unpack(&client, "/one", &gzip(&stream)).unwrap();
    let (first, second) = stream.split_at(1_000_001);
    unpack(&client, "/two", &[gzip(first), gzip(second)].concat()).unwrap();
    for path in ["/one/file", "/two/file"] {
        assert!(fs::read(place.path(path)).unwrap() == content, "{path}");
    }
    let packed = gzip(&stream);
    is_broken(unpack(&client, "/cut", &packed[..packed.len() - 1]), "gzip data");
    is_broken(unpack(&client, "/cut", &packed[..packed.len() / 2]), "gzip data");
    let mut damaged = packed.clone();
    let last = damaged.len() - 6;
    damaged[last] ^= 1;
    is_broken(unpack(&client, "/sum", &damaged), "gzip data");
}

#[test]
fn a_stream_that_is_broken_or_ends_early_is_an_error() {
    let place = Place::start();
    let client = place.client();
    let folder = scratch();
    fs::write(folder.path().join("a"), vec![7; 5000]).unwrap();
    fs::write(folder.path().join("b"), "b").unwrap();
    let stream = tar(folder.path(), &["a", "b"]);
    is_broken(unpack(&client, "/t", b""), "empty");
    is_broken(unpack(&client, "/t", b"hello"), "does not look like a tar stream");
    is_broken(unpack(&client, "/t", &vec![b'x'; 5000]), "does not look like a tar stream");
    is_broken(unpack(&client, "/t", b"\x28\xb5\x2f\xfd and more"), "zstd");
    is_broken(unpack(&client, "/t", &stream[..100]), "does not look like a tar stream");
    is_broken(unpack(&client, "/t", &stream[..600]), "ends in the middle of a file's content");
    is_broken(unpack(&client, "/t", &stream[..512 + 5000 + 3]), "ends in the middle of a file's padding");
    is_broken(unpack(&client, "/t", &stream[..6144 - 512 + 100]), "ends in the middle of");
    let mut damaged = stream.clone();
    damaged[512 + 5120] ^= 0x55;
    is_broken(unpack(&client, "/t", &damaged), "checksum");
    // As GNU tar: whole members and nothing after them are a stream.
    unpack(&client, "/whole", &stream[..512 + 5120]).unwrap();
    assert_eq!(fs::read(place.path("/whole/a")).unwrap(), vec![7; 5000]);
    // What stands behind the end is nobody's.
    unpack(&client, "/more", &[&stream[..], &vec![b'x'; 100_000][..]].concat()).unwrap();
}

#[test]
fn what_is_in_the_way_is_replaced_as_gnu_tar_does() {
    let place = Place::start();
    let client = place.client();
    let folder = scratch();
    fs::create_dir(folder.path().join("a")).unwrap();
    fs::write(folder.path().join("a/f"), "new").unwrap();
    let stream = tar(folder.path(), &["a"]);
    let to = |name: &str| place.path(&format!("/{name}"));

    fs::create_dir_all(to("one/real")).unwrap();
    symlink("real", to("one/a")).unwrap();
    unpack(&client, "/one", &stream).unwrap();
    assert!(fs::symlink_metadata(to("one/a")).unwrap().is_dir(), "a folder takes a link's place");
    assert!(!to("one/real/f").exists());

    fs::create_dir_all(to("two/real")).unwrap();
    symlink("real", to("two/a")).unwrap();
    unpack(&client, "/two", &tar(folder.path(), &["a/f"])).unwrap();
    assert!(to("two/real/f").exists(), "a link on the way is followed");

    fs::create_dir_all(to("three/a")).unwrap();
    fs::write(to("three/kept"), "kept").unwrap();
    symlink("../kept", to("three/a/f")).unwrap();
    unpack(&client, "/three", &stream).unwrap();
    assert_eq!(fs::read_to_string(to("three/kept")).unwrap(), "kept");
    assert_eq!(fs::read_to_string(to("three/a/f")).unwrap(), "new");

    fs::create_dir_all(to("four/a/f")).unwrap();
    unpack(&client, "/four", &stream).unwrap();
    assert!(to("four/a/f").is_file(), "an empty folder goes");
    fs::create_dir_all(to("five/a/f/x")).unwrap();
    fails_at(unpack(&client, "/five", &stream), libc::ENOTEMPTY);
    assert!(to("five/a/f/x").is_dir());

    fs::create_dir_all(to("six")).unwrap();
    fs::write(to("six/a"), "file").unwrap();
    unpack(&client, "/six", &stream).unwrap();
    assert!(to("six/a").is_dir());

    // A file with another name elsewhere, and one that runs: neither is written to.
    fs::create_dir_all(to("seven/a")).unwrap();
    fs::write(to("seven/a/f"), "old").unwrap();
    fs::hard_link(to("seven/a/f"), to("seven/other")).unwrap();
    unpack(&client, "/seven", &stream).unwrap();
    assert_eq!(fs::read_to_string(to("seven/other")).unwrap(), "old");
}

#[test]
fn links_lead_nowhere_but_into_the_container() {
    let place = Place::start();
    let client = place.client();
    let folder = scratch();
    symlink("/", folder.path().join("slash")).unwrap();
    symlink("../../../../../..", folder.path().join("up")).unwrap();
    symlink(folder.path(), folder.path().join("out")).unwrap();
    unpack(&client, "/links", &tar(folder.path(), &["."])).unwrap();
    let through = scratch();
    for name in ["slash", "up"] {
        fs::create_dir_all(through.path().join(name).join("tmp")).unwrap();
        fs::write(through.path().join(name).join("tmp").join(name), "inside").unwrap();
        unpack(&client, "/links", &tar(through.path(), &[&format!("{name}/tmp/{name}")])).unwrap();
        assert_eq!(fs::read_to_string(place.path(&format!("/tmp/{name}"))).unwrap(), "inside");
        assert!(!Path::new("/tmp").join(name).exists());
    }
    fs::write(folder.path().join("secret"), "the host's").unwrap();
    assert!(matches!(
        pack_as(&client, "", "/links/out/secret"),
        Err(TransferFailure::File { errno: libc::ENOENT, .. })
    ));
    for name in ["../x", "a/../../x", "/.."] {
        let mut stream = Vec::new();
        let entry = garden_init::tar::Entry::new(garden_init::tar::Kind::File, name.into());
        garden_init::tar::head(&entry, &mut stream);
        stream.extend(garden_init::tar::END);
        is_broken(unpack(&client, "/links", &stream), "'..'");
    }
}

#[test]
fn devices_are_made_where_the_container_may() {
    let folder = scratch();
    let made = Command::new("mknod").arg(folder.path().join("null")).args(["c", "1", "3"]).status().unwrap();
    assert!(made.success());
    let stream = tar(folder.path(), &["null"]);
    let place = Place::start();
    let client = place.client();
    unpack(&client, "/t", &stream).unwrap();
    let seen = fs::metadata(place.path("/t/null")).unwrap();
    assert!(seen.file_type().is_char_device() && seen.rdev() == rustix::fs::makedev(1, 3));
    fails_at(unpack_as(&client, "alice", "/home/alice", &stream), libc::EPERM);
    assert!(list(&pack(&client, "/t/null"), &["-tv"]).contains("1,3"));
    let unprivileged = Place::start_unprivileged();
    fails_at(unpack(&unprivileged.client(), "/t", &stream), libc::EPERM);
}

#[test]
fn in_a_user_namespace_owners_are_the_container_s() {
    let place = Place::start_unprivileged();
    let client = place.client();
    let folder = scratch();
    fs::write(folder.path().join("root"), "x").unwrap();
    fs::write(folder.path().join("alice"), "x").unwrap();
    std::os::unix::fs::chown(folder.path().join("alice"), Some(1000), Some(100)).unwrap();
    // Beyond what the namespace has: it stays its maker's.
    fs::write(folder.path().join("foreign"), "x").unwrap();
    std::os::unix::fs::chown(folder.path().join("foreign"), Some(1_640_401_234), Some(1_640_401_234)).unwrap();
    unpack(&client, "/t", &tar(folder.path(), &["root", "alice", "foreign"])).unwrap();
    let owner = |name: &str| fs::metadata(place.path(&format!("/t/{name}"))).unwrap().uid();
    assert_eq!((owner("root"), owner("alice"), owner("foreign")), (support::MAPPED_ROOT, 1000, support::MAPPED_ROOT));
    let listed = list(&pack(&client, "/t/"), &["-tv"]);
    let line = |name: &str| listed.lines().find(|line| line.ends_with(name)).unwrap().to_owned();
    assert!(line("./root").contains(" 0/0 ") && line("./alice").contains(" 1000/100 "), "{listed}");
}

#[test]
fn what_is_packed_is_what_was_named() {
    let place = Place::start();
    let client = place.client();
    fs::create_dir_all(place.path("/tmp/d/sub")).unwrap();
    fs::write(place.path("/tmp/d/file"), "x").unwrap();
    fs::hard_link(place.path("/tmp/d/file"), place.path("/tmp/d/sub/again")).unwrap();
    symlink("d", place.path("/tmp/link")).unwrap();
    assert_eq!(names(&pack(&client, "/tmp/d")), ["d/", "d/file", "d/sub/", "d/sub/again"]);
    assert_eq!(names(&pack(&client, "/tmp/d/")), ["./", "./file", "./sub/", "./sub/again"]);
    assert_eq!(names(&pack(&client, "/tmp/d/file")), ["file"]);
    assert_eq!(names(&pack(&client, "/tmp/link")), ["link"]);
    assert_eq!(names(&pack(&client, "/tmp/link/")), ["./", "./file", "./sub/", "./sub/again"]);
    assert!(list(&pack(&client, "/tmp/d"), &["-tv"]).contains(" link to "), "one content for two names");
    fs::write(place.path("/home/alice/own"), "x").unwrap();
    assert_eq!(names(&pack_as(&client, "alice", "own").unwrap()), ["own"]);
    for (user, path, errno) in [
        ("", "/tmp/missing", libc::ENOENT),
        ("", "/missing/file", libc::ENOENT),
        ("", "/etc/passwd/", libc::ENOTDIR),
        ("alice", "/root/", libc::EACCES),
    ] {
        let transfer = begin(&client, Direction::Out, user, path);
        let first = transfer.next();
        assert!(
            matches!(&first, Some(TransferReport::Failed(TransferFailure::File { errno: seen, .. })) if *seen == errno),
            "{path}: {first:?}"
        );
    }
}

#[test]
fn what_cannot_be_read_is_an_error_and_no_end() {
    let place = Place::start();
    let client = place.client();
    fs::create_dir_all(place.path("/tmp/d")).unwrap();
    fs::write(place.path("/tmp/d/secret"), "x").unwrap();
    fs::set_permissions(place.path("/tmp/d/secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut transfer = begin(&client, Direction::Out, "alice", "/tmp/d");
    assert_eq!(transfer.next(), Some(TransferReport::Ready));
    let mut stream = Vec::new();
    transfer.stream.take().unwrap().read_to_end(&mut stream).unwrap();
    assert!(!stream.ends_with(&[0; 1024]), "a stream that lacks a file has no end");
    assert!(matches!(transfer.next(), Some(TransferReport::Failed(TransferFailure::File { errno: libc::EACCES, .. }))));
}

#[test]
fn sockets_are_passed_over_and_pipes_are_not_read() {
    let place = Place::start();
    let client = place.client();
    fs::create_dir_all(place.path("/tmp/d")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.path("/tmp/d/socket")).unwrap();
    assert!(Command::new("mkfifo").arg(place.path("/tmp/d/pipe")).status().unwrap().success());
    assert_eq!(names(&pack(&client, "/tmp/d/")), ["./", "./pipe"]);
}

#[test]
fn a_transfer_is_none_of_the_container_s_processes() {
    let mut place = Place::start();
    let mut client = place.client();
    let folder = scratch();
    fs::write(folder.path().join("file"), vec![1; 100_000]).unwrap();
    let stream = tar(folder.path(), &["file"]);
    let mut transfer = begin(&client, Direction::In, "", "/t");
    assert_eq!(transfer.next(), Some(TransferReport::Ready));
    assert!(!client.is_occupied());
    client.send(&Request::SignalAll { signal: libc::SIGTERM }, &[]);
    // A process that ends leaves the place empty, though the transfer goes on.
    client.run(&spec("true"));
    client.wait_until_empty();
    transfer.stream.as_mut().unwrap().write_all(&stream).unwrap();
    transfer.stream = None;
    assert_eq!(transfer.result(), Ok(()));
    assert_eq!(fs::read(place.path("/t/file")).unwrap(), vec![1; 100_000]);
    // The end of whoever asked ends it.
    let before = place.init_fds();
    let first = begin(&client, Direction::In, "", "/t");
    assert_eq!(first.next(), Some(TransferReport::Ready));
    let second = begin(&client, Direction::In, "", "/t");
    assert_eq!(second.next(), Some(TransferReport::Ready));
    drop(client);
    drop((first, second));
    assert!(until(|| (place.init_fds() <= before).then_some(())).is_some(), "init keeps something of them");
    let zombies = || {
        let children = format!("/proc/{0}/task/{0}/children", place.init);
        fs::read_to_string(children).unwrap().trim().to_owned()
    };
    assert!(until(|| zombies().is_empty().then_some(())).is_some(), "children are left: {}", zombies());
    // KILL reaches it: nothing is promised any more, and the report's end tells.
    let client = place.client();
    let killed = begin(&client, Direction::In, "", "/t");
    assert_eq!(killed.next(), Some(TransferReport::Ready));
    client.send(&Request::SignalAll { signal: libc::SIGKILL }, &[]);
    assert_eq!(killed.next(), None);
    assert!(place.is_alive());
}

#[test]
fn more_transfers_than_are_kept_are_refused_and_a_request_without_descriptors_is_ignored() {
    let place = Place::start();
    let mut client = place.client();
    let mut running = Vec::new();
    let refused = loop {
        let transfer = begin(&client, Direction::In, "", "/t");
        match transfer.next() {
            Some(TransferReport::Ready) => running.push(transfer),
            other => break other,
        }
    };
    assert!(matches!(refused, Some(TransferReport::Failed(TransferFailure::System { errno: libc::EAGAIN, .. }))));
    assert_eq!(running.len(), 128);
    drop(running);
    let spec = TransferSpec { direction: Direction::Out, user: String::new(), path: b"/".to_vec(), capabilities: 0 };
    client.send(&Request::Transfer { spec }, &[]);
    client.ping();
    assert!(until(|| unpack(&client, "/t", &[0; 1024]).ok()).is_some());
}

#[test]
fn a_hundred_thousand_files_take_no_more_memory_than_one() {
    let place = Place::start();
    let client = place.client();
    let mut transfer = begin(&client, Direction::In, "", "/many");
    assert_eq!(transfer.next(), Some(TransferReport::Ready));
    let mut stream = transfer.stream.take().unwrap();
    let mut peak = 0;
    for number in 0..100_000 {
        let mut entry = garden_init::tar::Entry::new(
            garden_init::tar::Kind::File,
            format!("{}/{number}", number / 1000).into_bytes(),
        );
        (entry.mode, entry.size) = (0o644, 3);
        let mut bytes = Vec::new();
        garden_init::tar::head(&entry, &mut bytes);
        bytes.extend_from_slice(b"abc");
        bytes.extend_from_slice(garden_init::tar::padding(3));
        stream.write_all(&bytes).unwrap();
        if number % 5000 == 4999 {
            peak = peak.max(child_memory(&place));
        }
    }
    stream.write_all(&garden_init::tar::END).unwrap();
    drop(stream);
    transfer.result().unwrap();
    let counted: usize =
        (0..100).map(|folder| fs::read_dir(place.path(&format!("/many/{folder}"))).unwrap().count()).sum();
    assert_eq!(counted, 100_000);
    let mut transfer = begin(&client, Direction::Out, "", "/many");
    assert_eq!(transfer.next(), Some(TransferReport::Ready));
    let mut stream = transfer.stream.take().unwrap();
    let (mut chunk, mut bytes, mut out_peak) = (vec![0; 1 << 20], 0, 0);
    loop {
        let read = stream.read(&mut chunk).unwrap();
        if read == 0 {
            break;
        }
        if bytes % (10 << 20) < read {
            out_peak = out_peak.max(child_memory(&place));
        }
        bytes += read;
    }
    transfer.result().unwrap();
    println!("100,000 files: {peak} kB anonymous in, {out_peak} kB out");
    assert!(peak < 4096 && out_peak < 4096, "{peak} kB in, {out_peak} kB out");
}

/// What the transfer has for itself, in kB; 0 where it has ended.
fn child_memory(place: &Place) -> u64 {
    let children = format!("/proc/{0}/task/{0}/children", place.init);
    let child = fs::read_to_string(children).unwrap();
    let Ok(text) = fs::read_to_string(format!("/proc/{}/smaps_rollup", child.trim())) else { return 0 };
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap_or("0");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}
