//! Configuration, by what the real binary says of it: the file, variables over it, flags over both.

mod cli_support;

use cli_support::{Said, bare, finished};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A configuration file of a test's own.
struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl File {
    fn with(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gardend.yaml");
        std::fs::write(&path, text).unwrap();
        Self { _folder: folder, path }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

fn show(file: &str, flags: &[&str], variables: &[(&str, &str)]) -> Said {
    let mut command = bare(&["config", "show", "--json"]);
    command.args(flags).env("GARDEND_CONFIG", file).envs(variables.iter().copied());
    finished(command)
}

/// The options by their names.
fn shown(said: &Said) -> std::collections::BTreeMap<String, Value> {
    assert_eq!((said.status, said.stderr.as_str()), (0, ""), "{said:?}");
    let all: Vec<Value> = serde_json::from_str(&said.stdout).unwrap();
    all.into_iter().map(|option| (option["name"].as_str().unwrap().to_owned(), option)).collect()
}

#[test]
fn a_flag_goes_before_a_variable_and_that_before_the_file_and_that_before_the_default() {
    let file =
        File::with("max-containers: 10\npool-size: 1\n\nlisten: [127.0.0.1:1, unix:///run/g.sock]\nlog-level: debug\n");
    let options = shown(&show(
        file.path(),
        &["--max-containers", "30"],
        &[("GARDEND_MAX_CONTAINERS", "20"), ("GARDEND_POOL_SIZE", "2")],
    ));
    let expected = [
        json!({"name": "max-containers", "value": "30", "from": "flag", "flag": "--max-containers"}),
        json!({"name": "pool-size", "value": "2", "from": "environment", "variable": "GARDEND_POOL_SIZE"}),
        json!({"name": "listen", "value": ["127.0.0.1:1", "unix:///run/g.sock"], "from": "file", "file": file.path(), "line": 4}),
        json!({"name": "log-level", "value": "debug", "from": "file", "file": file.path(), "line": 5}),
        json!({"name": "runtime", "value": "runc", "from": "default"}),
        json!({"name": "default-rootfs", "value": null, "from": "default"}),
    ];
    for option in expected {
        assert_eq!(options[option["name"].as_str().unwrap()], option);
    }
}

#[test]
fn a_list_is_taken_from_one_place_as_a_whole() {
    let file = File::with("listen:\n  - 127.0.0.1:1\n  - 127.0.0.1:2\n");
    let listen = |flags: &[&str], variables: &[(&str, &str)]| {
        shown(&show(file.path(), flags, variables))["listen"]["value"].clone()
    };
    assert_eq!(listen(&[], &[]), json!(["127.0.0.1:1", "127.0.0.1:2"]));
    let variable = [("GARDEND_LISTEN", "127.0.0.1:3,unix:///run/g.sock")];
    assert_eq!(listen(&[], &variable), json!(["127.0.0.1:3", "unix:///run/g.sock"]));
    let flags = ["--listen", "127.0.0.1:4", "--listen", "127.0.0.1:5,127.0.0.1:6"];
    assert_eq!(listen(&flags, &variable), json!(["127.0.0.1:4", "127.0.0.1:5", "127.0.0.1:6"]));
}

#[test]
fn the_table_tells_where_each_value_is_from() {
    let file = File::with("# ours\npool-size: 7\n");
    let mut command = bare(&["config", "show", "--config", file.path(), "--spool-size", "1M"]);
    command.env("GARDEND_LOG_FORMAT", "json");
    let said = finished(command);
    assert_eq!((said.status, said.stderr.as_str()), (0, ""));
    let line = |name: &str| {
        let line = said.stdout.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(line("OPTION"), ["VALUE", "FROM"]);
    assert_eq!(line("pool-size"), ["7", &format!("{}:2", file.path())]);
    assert_eq!(line("spool-size"), ["1M", "--spool-size"]);
    assert_eq!(line("log-format"), ["json", "GARDEND_LOG_FORMAT"]);
    assert_eq!(line("default-rootfs"), ["-", "default"]);
}

#[test]
fn a_file_with_a_mistake_stops_every_command_that_reads_it() {
    let file = File::with("pool-size: 2\nlisen: 127.0.0.1:7777\n");
    let expected = format!("error: {}:2: unknown key `lisen`; did you mean `listen`?\n", file.path());
    for command in [&["serve"][..], &["check"], &["config", "show"]] {
        let said = finished(bare(&[command, &["--config", file.path()]].concat()));
        assert_eq!(said, Said { status: 2, stdout: String::new(), stderr: expected.clone() }, "{command:?}");
    }
    // Also where a flag would go before the value that cannot be.
    let wrong = File::with("pool-size: many\n");
    let said = show(wrong.path(), &["--pool-size", "3"], &[]);
    assert_eq!(said.status, 2);
    assert!(said.stderr.contains(":1: `pool-size` cannot be 'many'"), "{said:?}");
}

#[test]
fn a_file_that_is_named_must_be_there_and_be_one() {
    let missing = finished(bare(&["serve", "--config", "/not/there.yaml"]));
    assert_eq!(missing.status, 2);
    assert!(missing.stderr.contains("cannot read the configuration file /not/there.yaml: No such file"), "{missing:?}");
    let endless = finished(bare(&["config", "show", "--config", "/dev/zero"]));
    assert_eq!(endless.status, 2);
    assert!(endless.stderr.contains("larger than"), "{endless:?}");
    assert_eq!(show("/dev/null", &[], &[]).status, 0);
}

#[test]
fn options_that_do_not_go_together_are_shown_and_then_refused() {
    let file = File::with("state-dir: /srv/g\nrun-dir: /srv/g\n");
    let said = show(file.path(), &[], &[]);
    assert_eq!(said.status, 1);
    assert!(said.stdout.contains("/srv/g"));
    assert!(said.stderr.contains("each needs a folder of its own"), "{said:?}");
}

#[test]
fn the_help_of_serve_tells_of_every_option() {
    let help = finished(bare(&["serve", "--help"]));
    assert_eq!(help.status, 0);
    for name in shown(&show("/dev/null", &[], &[])).into_keys() {
        let variable = format!("GARDEND_{}", name.to_uppercase().replace('-', "_"));
        assert!(
            help.stdout.contains(&format!("--{name}")) && help.stdout.contains(&format!("[env: {variable}=]")),
            "{name}"
        );
    }
    assert!(help.stdout.contains("--config <PATH>") && help.stdout.contains("[env: GARDEND_CONFIG=]"));
}

#[test]
fn what_is_generated_is_what_the_binary_prints() {
    let docs = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("docs");
    for (what, name) in [("docs", "configuration.md"), ("schema", "configuration.schema.json")] {
        let said = finished(bare(&["config", what]));
        assert_eq!(said.status, 0);
        assert_eq!(said.stdout, std::fs::read_to_string(docs.join(name)).unwrap(), "{name}: run `make docs`");
    }
}
