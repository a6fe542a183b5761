//! Starts that must fail, each with the reason.

use crate::server::{Server, refused};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

#[test]
fn an_address_in_use_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("a port").to_string();
    let (status, said) = on(&address);
    assert!(!status.success(), "{said}");
    assert!(said.contains(&address) && said.to_lowercase().contains("in use"), "{said}");
}

#[test]
fn an_address_beyond_loopback_is_refused_until_it_can_be_secured() {
    let (status, said) = on("0.0.0.0:0");
    assert!(!status.success(), "{said}");
    assert!(said.contains("0.0.0.0") && said.contains("127.0.0.1"), "{said}");
}

/// A gardend that shall listen on this address.
fn on(address: &str) -> (std::process::ExitStatus, String) {
    let server = Server::new(&[]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gardend"));
    command.args(["serve", "--listen", address, "--state-dir"]).arg(server.state()).arg("--run-dir").arg(server.run());
    refused(command)
}

#[test]
fn a_user_who_is_not_root_is_told_so() {
    let server = Server::new(&[]);
    // Where everybody may read it, which a target folder need not be.
    let program = server.scratch().join("gardend");
    fs::copy(env!("CARGO_BIN_EXE_gardend"), &program).expect("the folder is ours");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    let mut command = Command::new(program);
    command.args(server.command().get_args()).uid(65534).gid(65534).current_dir("/");
    let (status, said) = refused(command);
    assert!(!status.success(), "{said}");
    assert!(said.contains("root"), "{said}");
}

#[test]
fn a_runtime_that_is_not_there_is_said_by_its_name() {
    let server = Server::new(&[]);
    let mut command = server.command();
    command.env_remove("GARDEND_RUNTIME").args(["--runtime", "/no/such/runtime"]);
    let (status, said) = refused(command);
    assert!(!status.success(), "{said}");
    assert!(said.contains("/no/such/runtime"), "{said}");
}

#[test]
fn a_default_rootfs_that_is_not_there_is_said_by_its_name() {
    let server = Server::new(&["--default-rootfs", "/no/such/rootfs"]);
    let (status, said) = server.refused();
    assert!(!status.success(), "{said}");
    assert!(said.contains("/no/such/rootfs"), "{said}");
}
