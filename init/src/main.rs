//! garden-init: see the library.
//!
//! `garden-init [--on-host] [--allow-any-peer] [FOLDER]`, or `garden-init enter` (see [`garden_init::enter`])

use garden_init::enter;
use garden_init::server::{Options, Peers, Realm, run};
use garden_init::wire::CONTROL_DIR;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().skip(1).eq([enter::COMMAND]) {
        enter::run();
        return ExitCode::SUCCESS;
    }
    let options = match options(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("garden-init: {reason}; usage: garden-init [--on-host] [--allow-any-peer] [FOLDER]");
            return ExitCode::from(2);
        }
    };
    let Err(error) = run(&options);
    eprintln!("garden-init: {error}");
    ExitCode::FAILURE
}

fn options(arguments: impl Iterator<Item = OsString>) -> Result<Options, String> {
    let mut options = Options { folder: CONTROL_DIR.into(), peers: Peers::Outside, realm: Realm::Namespace };
    let mut folders = 0;
    for argument in arguments {
        if argument == "--allow-any-peer" {
            options.peers = Peers::Any;
        } else if argument == "--on-host" {
            options.peers = Peers::SameUser;
            options.realm = Realm::Descendants;
        } else if argument.to_string_lossy().starts_with('-') {
            return Err(format!("unknown option {}", argument.display()));
        } else {
            options.folder = argument.into();
            folders += 1;
        }
    }
    if folders > 1 { Err(format!("{folders} folders instead of one")) } else { Ok(options) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        options(arguments.iter().map(OsString::from))
    }

    #[test]
    fn strangers_are_refused_unless_it_is_said() {
        let realm = Realm::Namespace;
        assert_eq!(parse(&[]), Ok(Options { folder: CONTROL_DIR.into(), peers: Peers::Outside, realm }));
        assert_eq!(parse(&["--allow-any-peer", "/x"]), Ok(Options { folder: "/x".into(), peers: Peers::Any, realm }));
        let on_host = Options { folder: ".".into(), peers: Peers::SameUser, realm: Realm::Descendants };
        assert_eq!(parse(&["--on-host", "."]), Ok(on_host));
        assert!(parse(&["--allow-every-peer"]).is_err());
        assert!(parse(&["/x", "/y"]).is_err());
    }
}
