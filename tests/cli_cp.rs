//! `gardend cp`, by what lands where: docker cp's rules.

mod cli_support;

use cli_support::files::Node;
use cli_support::garden::Garden;
use cli_support::pty::OnTerminal;
use cli_support::{Said, bare, finished, gardend, outcome};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

fn ok() -> Said {
    Said { status: 0, stdout: String::new(), stderr: String::new() }
}

/// A container "web" with a few files, and a folder here with some.
struct World {
    server: Garden,
    here: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let server = Garden::with_container("web");
        server.put("web:/srv", Node::Folder);
        server.put("web:/etc", Node::Folder);
        server.put("web:/etc/hosts", Node::File(b"127.0.0.1 web\n".to_vec(), 0));
        server.put("web:/etc/app", Node::Folder);
        server.put("web:/etc/app/conf", Node::File(b"a=1\n".to_vec(), 7));
        server.put("web:/etc/app/link", Node::Link("conf".to_owned()));
        server.put("web:/current", Node::Link("etc/app".to_owned()));
        server.put("web:/round", Node::Link("/round".to_owned()));
        let here = tempfile::tempdir().unwrap();
        fs::create_dir_all(here.path().join("dir/sub")).unwrap();
        fs::write(here.path().join("dir/a"), "one").unwrap();
        fs::write(here.path().join("dir/sub/b"), "two").unwrap();
        symlink("a", here.path().join("dir/link")).unwrap();
        fs::write(here.path().join("file"), "three").unwrap();
        symlink("file", here.path().join("to-file")).unwrap();
        Self { server, here }
    }

    fn cp(&self, args: &[&str]) -> Said {
        let mut command = gardend(&self.server, &["cp"]);
        command.args(args).current_dir(self.here.path());
        finished(command)
    }

    fn there(&self, path: &str) -> Option<String> {
        self.server.file(&format!("web:{path}")).map(|node| match node {
            Node::Folder => "a folder".to_owned(),
            Node::File(content, _) => String::from_utf8(content).unwrap(),
            Node::Link(target) => format!("-> {target}"),
        })
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.here.path().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

#[test]
fn a_folder_goes_into_a_folder_and_becomes_what_is_not_there() {
    let world = World::new();
    for (source, destination, place) in [
        ("dir", "web:/srv", "/srv/dir"),
        ("./dir/", "web:/etc/", "/etc/dir"),
        ("dir", "web:/srv/new", "/srv/new"),
        ("dir/.", "web:/srv/other", "/srv/other"),
        ("dir", "web:top", "/top"),
    ] {
        assert_eq!(world.cp(&[source, destination]), ok(), "{source} {destination}");
        assert_eq!(world.there(&format!("{place}/a")).as_deref(), Some("one"), "{source} {destination}");
        assert_eq!(world.there(&format!("{place}/sub/b")).as_deref(), Some("two"));
        assert_eq!(world.there(&format!("{place}/link")).as_deref(), Some("-> a"));
    }
    // Its contents alone, into one that is there.
    assert_eq!(world.cp(&["dir/.", "web:/srv"]), ok());
    assert_eq!(world.there("/srv/sub/b").as_deref(), Some("two"));
}

#[test]
fn a_file_goes_into_a_folder_takes_a_files_place_or_becomes_what_is_not_there() {
    let world = World::new();
    for (destination, place) in [
        ("web:/srv", "/srv/file"),
        ("web:/srv/", "/srv/file"),
        ("web:/etc/hosts", "/etc/hosts"),
        ("web:/srv/named", "/srv/named"),
        ("web:/", "/file"),
    ] {
        assert_eq!(world.cp(&["file", destination]), ok(), "{destination}");
        assert_eq!(world.there(place).as_deref(), Some("three"), "{destination}");
    }
    // A link as itself, or what it leads to; a link there is followed.
    assert_eq!(world.cp(&["to-file", "web:/srv/l"]), ok());
    assert_eq!(world.there("/srv/l").as_deref(), Some("-> file"));
    assert_eq!(world.cp(&["-L", "to-file", "web:/current/copied"]), ok());
    assert_eq!(world.there("/etc/app/copied").as_deref(), Some("three"));
}

#[test]
fn what_cannot_be_where_it_is_to_go_is_refused_with_the_reason() {
    let world = World::new();
    for (args, words) in [
        (&["dir", "web:/etc/hosts"][..], "'/etc/hosts' in 'web' is a file, and a folder cannot take its place"),
        (&["file", "web:/etc/hosts/"], "is a file, and no folder"),
        (&["file", "web:/no/"], "there is no folder '/no' in 'web'; make it first"),
        (&["file", "web:/no/where"], "there is no folder '/no' in 'web'"),
        (&["dir", "web:/no/where"], "there is no folder '/no' in 'web'"),
        (&["missing", "web:/srv"], "cannot copy 'missing': no such file or directory"),
        (&["file/", "web:/srv"], "cannot copy 'file/': not a directory"),
        (&["file", "web:/round"], "leads in a circle"),
        (&["file", "nobody:/srv"], "unknown handle: nobody"),
        (&["web:/missing", "."], "No such file or directory"),
        (&["web:/etc/app", "file"], "is a file, and no folder"),
        (&["web:/etc/hosts", "no/"], "there is no folder 'no/'"),
        (&["web:/etc/hosts", "no/where"], "cannot copy '/etc/hosts': 'no/where': no such file"),
        (&["-", "web:/etc/hosts"], "there is no folder '/etc/hosts' in 'web' to unpack a stream in"),
    ] {
        let said = world.cp(args);
        assert_eq!(said.status, 1, "{args:?}: {said:?}");
        assert!(said.stderr.contains(words), "{args:?}: {said:?}");
    }
    for (args, words) in [
        (&["a", "b"][..], "neither is in a container"),
        (&["web:/a", "web:/b"], "both are in containers"),
        (&["-", "-"], "neither is in a container"),
    ] {
        let said = world.cp(args);
        assert_eq!(said.status, 2, "{said:?}");
        assert!(said.stderr.contains(words), "{args:?}: {said:?}");
    }
}

#[test]
fn files_come_out_to_where_docker_puts_them() {
    let world = World::new();
    fs::create_dir(world.here.path().join("in")).unwrap();
    for (source, destination, file, content) in [
        ("web:/etc/hosts", "hosts", "hosts", "127.0.0.1 web\n"),
        ("web:/etc/hosts", "in", "in/hosts", "127.0.0.1 web\n"),
        ("web:/etc/hosts", "./file", "file", "127.0.0.1 web\n"),
        ("web:/etc/app", "in", "in/app/conf", "a=1\n"),
        ("web:/etc/app", "new", "new/conf", "a=1\n"),
        ("web:/etc/app/.", "in", "in/conf", "a=1\n"),
        ("web:/etc/app/.", "newer", "newer/conf", "a=1\n"),
        ("web:etc", "everything", "everything/app/link", "a=1\n"),
        ("web:/", "root", "root/etc/app/conf", "a=1\n"),
    ] {
        assert_eq!(world.cp(&[source, destination]), ok(), "{source} {destination}");
        assert_eq!(world.read(file), content, "{source} {destination}");
    }
    assert_eq!(world.cp(&["web:/current", "a-link"]), ok());
    assert_eq!(fs::read_link(world.here.path().join("a-link")).unwrap(), Path::new("etc/app"));
    assert_eq!(world.cp(&["-L", "web:/current", "followed"]), ok());
    assert_eq!(world.read("followed/conf"), "a=1\n");
    let left: Vec<_> = fs::read_dir(world.here.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".gardend")), "{left:?}");
}

#[test]
fn owners_are_roots_and_mine_unless_they_are_to_be_kept() {
    let world = World::new();
    let owner = |path: &str| match world.server.file(path) {
        Some(Node::File(_, uid)) => uid,
        other => panic!("{other:?}"),
    };
    std::os::unix::fs::chown(world.here.path().join("file"), Some(1234), None).unwrap();
    for args in [
        &["file", "web:/srv/plain"][..],
        &["-a", "file", "web:/srv/kept"],
        &["web:/etc/app", "plain"],
        &["-a", "web:/etc/app", "kept"],
        &["-a", "web:/etc/app/conf", "kept-file"],
    ] {
        assert_eq!(world.cp(args), ok(), "{args:?}");
    }
    assert_eq!((owner("web:/srv/plain"), owner("web:/srv/kept")), (0, 1234));
    let owner = |path: &str| fs::metadata(world.here.path().join(path)).unwrap().uid();
    assert_eq!([owner("plain/conf"), owner("kept/conf"), owner("kept-file")], [0, 7, 7]);
    let mode = fs::metadata(world.here.path().join("plain/conf")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o644);
}

#[test]
fn streams_come_from_stdin_and_go_to_stdout() {
    let world = World::new();
    let packed = {
        let mut command = gardend(&world.server, &["cp", "web:/etc/app", "-"]);
        command.stdout(Stdio::piped()).output().unwrap()
    };
    assert!(packed.status.success());
    let mut command = gardend(&world.server, &["cp", "--user", "app", "-", "web:/srv"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&packed.stdout).unwrap();
    assert_eq!(outcome(child), ok());
    assert_eq!(world.there("/srv/app/conf").as_deref(), Some("a=1\n"));
    world.server.wait_to_be_told("PUT /containers/web/files?user=app&destination=%2Fsrv");
    let terminal = OnTerminal::start(gardend(&world.server, &["cp", "web:/etc", "-"])).finish();
    assert_eq!(terminal.status, 2);
    assert!(terminal.stdout.contains("is not for a terminal"), "{terminal:?}");
}

#[test]
fn a_stream_that_is_cut_is_a_failure_and_leaves_no_folder() {
    let world = World::new();
    world.server.put("web:/cut", Node::Folder);
    world.server.put("web:/cut/big", Node::File(vec![7; 100_000], 0));
    let cut = world.cp(&["web:/cut", "cut"]);
    assert_eq!(cut.status, 1);
    assert!(cut.stderr.contains("cut by the server before the stream was whole"), "{cut:?}");
    assert!(!world.here.path().join("cut").exists());
}

#[test]
fn a_large_tree_goes_in_and_comes_out_the_same() {
    let world = World::new();
    let tree = world.here.path().join("tree");
    for folder in 0..20 {
        let folder = tree.join(format!("{folder}-{}", "n".repeat(150)));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..20 {
            fs::write(folder.join(format!("{file}")), vec![file; 10_000]).unwrap();
        }
    }
    fs::write(tree.join("big"), vec![1; 20 << 20]).unwrap();
    assert_eq!(world.cp(&["tree", "web:/srv"]), ok());
    assert_eq!(world.cp(&["web:/srv/tree", "back"]), ok());
    let diff = std::process::Command::new("diff").args(["-r", "tree", "back"]).current_dir(world.here.path()).output();
    assert_eq!(String::from_utf8(diff.unwrap().stdout).unwrap(), "");
}

#[test]
fn a_server_that_is_not_there_is_told() {
    let here = tempfile::tempdir().unwrap();
    let destination = here.path().join("y");
    let away = finished(bare(&["cp", "--target", "unix:///nowhere.sock", "web:/x", destination.to_str().unwrap()]));
    assert_eq!(away.status, 1);
    assert!(away.stderr.contains("cannot reach gardend at unix:///nowhere.sock"), "{away:?}");
    assert!(!destination.exists());
}
