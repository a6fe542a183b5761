//! The commands about images, by what the real binary says and exits with.

mod cli_support;

use cli_support::garden::Garden;
use cli_support::pty::OnTerminal;
use cli_support::{Said, finished, gardend, said};
use serde_json::{Value, json};
use std::process::Command;

fn ok(stdout: &str, stderr: &str) -> Said {
    Said { status: 0, stdout: stdout.to_owned(), stderr: stderr.to_owned() }
}

fn failed(status: i32, stderr: &str) -> Said {
    Said { status, stdout: String::new(), stderr: stderr.to_owned() }
}

/// With a folder for docker's configuration, which is empty.
fn pull(server: &Garden, folder: &tempfile::TempDir, args: &[&str]) -> Command {
    let mut command = gardend(server, &[&["pull"], args].concat());
    command.env("DOCKER_CONFIG", folder.path());
    command
}

/// What the server was asked to pull last.
fn asked(server: &Garden) -> Value {
    let told = server.told();
    let line = told.iter().rev().find_map(|line| line.strip_prefix("POST /gardend/v1/images/pull ")).unwrap();
    serde_json::from_str(line).unwrap()
}

#[test]
fn images_are_listed_with_who_uses_them() {
    let server = Garden::start();
    let table = said(&server, &["images"]);
    assert_eq!((table.status, table.stderr.as_str()), (0, ""));
    let lines: Vec<&str> = table.stdout.lines().collect();
    assert_eq!(lines[0], "IMAGE                         DIGEST        SIZE     USED           IN USE BY");
    assert_eq!(lines[1], "docker.io/library/web:latest  1a1a1a1a1a1a  5.00MiB  now            a, b/shell");
    assert!(lines[2].starts_with("docker.io/library/old:latest  1a1a1a1a1a1a  5.00MiB  "), "{}", lines[2]);
    assert!(lines[2].ends_with(" days ago  -"), "{}", lines[2]);
    let whole = format!("sha256:{}", "1a".repeat(32));
    assert!(said(&server, &["images", "--digests"]).stdout.contains(&whole));
    let names = "docker.io/library/web:latest\ndocker.io/library/old:latest\n";
    assert_eq!(said(&server, &["images", "-q"]), ok(names, ""));
    let images: Value = serde_json::from_str(&said(&server, &["images", "--json"]).stdout).unwrap();
    assert_eq!(
        images[0],
        json!({
            "names": ["docker.io/library/web:latest"], "digest": whole, "bytes": 5 << 20,
            "last_used": "2020-01-01T00:00:00Z", "in_use": true, "used_by": ["a", "b/shell"],
        })
    );
}

#[test]
fn a_prune_tells_what_went_or_what_would() {
    let server = Garden::start();
    let old = "docker.io/library/old:latest\n";
    assert_eq!(said(&server, &["prune"]), ok(old, "gardend: 1 image removed, of 5.00MiB at most\n"));
    let would = said(&server, &["prune", "--all", "--dry-run"]);
    let all = format!("{old}sha256:abc\n");
    assert_eq!(would, ok(&all, "gardend: 2 images would be removed, of 5.00MiB at most\n"));
    let told = server.told();
    let bodies: Vec<Value> = told
        .iter()
        .filter_map(|line| line.strip_prefix("POST /gardend/v1/images/prune "))
        .map(|body| serde_json::from_str(body).unwrap())
        .collect();
    assert_eq!(bodies, [json!({"all": false, "dry_run": false}), json!({"all": true, "dry_run": true})]);
    let images: Value = serde_json::from_str(&said(&server, &["prune", "--json"]).stdout).unwrap();
    assert_eq!(images[0]["names"][0], "docker.io/library/old:latest");
}

#[test]
fn a_pull_prints_what_was_pulled_and_nothing_moves_where_nobody_looks() {
    let (server, folder) = (Garden::start(), tempfile::tempdir().unwrap());
    let pulled = "docker.io/library/app:1 sha256:1a1a\n";
    assert_eq!(finished(pull(&server, &folder, &["app:1"])), ok(pulled, "gardend: pulled 4.00MiB, 9.00MiB unpacked\n"));
    assert_eq!(asked(&server), json!({"uri": "docker:///app:1", "username": "", "password": ""}));
    assert_eq!(
        finished(pull(&server, &folder, &["there"])),
        ok(pulled, "gardend: it was there already, 9.00MiB unpacked\n")
    );
    let image: Value = serde_json::from_str(&finished(pull(&server, &folder, &["app", "--json"])).stdout).unwrap();
    assert_eq!(image["fetched"], 4 << 20);
}

#[test]
fn a_pull_on_a_terminal_shows_a_bar() {
    let (server, folder) = (Garden::start(), tempfile::tempdir().unwrap());
    let terminal = OnTerminal::start(pull(&server, &folder, &["app:1"]));
    terminal.resize(100, 24);
    let said = terminal.finish();
    assert_eq!(said.status, 0);
    for words in ["asking for docker:///app:1", "of 4.00MiB", "of 3 layers", "docker.io/library/app:1 sha256:1a1a"] {
        assert!(said.stdout.contains(words), "{words}: {said:?}");
    }
}

#[test]
fn a_pull_that_fails_says_why_whenever_that_is() {
    let (server, folder) = (Garden::start(), tempfile::tempdir().unwrap());
    assert_eq!(
        finished(pull(&server, &folder, &["refused"])),
        failed(1, "error: docker:///refused: registry.example refuses: authentication required\n")
    );
    assert_eq!(
        finished(pull(&server, &folder, &["breaks"])),
        failed(1, "error: registry.example: the connection broke\n")
    );
    let hung_up = finished(pull(&server, &folder, &["hangs-up"]));
    assert_eq!(hung_up.status, 1);
    assert!(hung_up.stderr.contains("it ended before the pull did"), "{hung_up:?}");
    let wrong = finished(pull(&server, &folder, &["Upper"]));
    assert_eq!(wrong.status, 2);
    assert!(wrong.stderr.contains("invalid value 'Upper' for '<IMAGE>'"), "{wrong:?}");
}

#[test]
fn a_password_comes_from_dockers_configuration_file_and_is_in_no_argument() {
    let (server, folder) = (Garden::start(), tempfile::tempdir().unwrap());
    let config = folder.path().join("config.json");
    std::fs::write(&config, r#"{"auths":{"registry.example":{"username":"bob","password":"s3cret"}}}"#).unwrap();
    assert_eq!(finished(pull(&server, &folder, &["registry.example/app"])).status, 0);
    assert_eq!(
        asked(&server),
        json!({"uri": "docker://registry.example/app", "username": "bob", "password": "s3cret"})
    );
    finished(pull(&server, &folder, &["other.example/app"]));
    assert_eq!(asked(&server)["username"], "");

    // A helper: passed over in the usual file, with a word; an error in one that was named.
    std::fs::write(&config, r#"{"credsStore":"desktop"}"#).unwrap();
    let passed = finished(pull(&server, &folder, &["registry.example/app"]));
    assert_eq!(passed.status, 0);
    assert!(
        passed.stderr.contains("pulling without a password") && passed.stderr.contains("\"desktop\""),
        "{passed:?}"
    );
    let named =
        finished(pull(&server, &folder, &["--registry-config", config.to_str().unwrap(), "registry.example/app"]));
    assert_eq!(named.status, 1);
    assert!(named.stderr.contains("\"desktop\""), "{named:?}");
}
