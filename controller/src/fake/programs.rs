//! The few programs that the fake node has.

use super::world::{Pipe, Process};
use crate::ports::{Signal, SpawnError};
use crate::record::{ExitStatus, ProcessSpec};

/// A program, and what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// Ends at once, having written this.
    Print {
        stdout: Vec<u8>,
        stderr: Vec<u8>,
        status: ExitStatus,
    },
    Cat,
    Sleep,
    Stubborn,
    Noise,
}

/// Whom the fake node's containers know.
pub fn knows_user(user: &str) -> bool {
    matches!(user, "root" | "vcap") || user.chars().all(|c| c.is_ascii_digit() || c == ':')
}

/// It has ended.
pub struct Ends(pub ExitStatus);

impl Program {
    /// What `spec` names.
    pub fn of(spec: &ProcessSpec) -> Result<Self, SpawnError> {
        let user = spec.user.as_deref().unwrap_or("root");
        if !knows_user(user) {
            return Err(SpawnError::UnknownUser { user: user.to_owned() });
        }
        if spec.path == "/etc/passwd" {
            return Err(SpawnError::NotExecutable { program: spec.path.clone(), reason: "permission denied".into() });
        }
        let argument = |index: usize| spec.args.get(index).map_or("", String::as_str);
        let code = |index: usize| ExitStatus::Code(argument(index).parse().unwrap_or(0));
        let print = |stdout: Vec<u8>, stderr: &str, status| Self::Print { stdout, stderr: stderr.into(), status };
        Ok(match spec.path.rsplit('/').next().unwrap_or("") {
            "true" => print(Vec::new(), "", ExitStatus::Code(0)),
            "false" => print(Vec::new(), "", ExitStatus::Code(1)),
            "exit" => print(Vec::new(), "", code(0)),
            "echo" => print(format!("{}\n", spec.args.join(" ")).into(), "", ExitStatus::Code(0)),
            "print" => print(argument(0).into(), argument(1), code(2)),
            "flood" => print(flood(argument(0).parse().unwrap_or(0)), "", ExitStatus::Code(0)),
            "cat" => Self::Cat,
            "sleep" => Self::Sleep,
            "stubborn" => Self::Stubborn,
            "noise" => Self::Noise,
            _ => return Err(SpawnError::ExecutableNotFound { program: spec.path.clone() }),
        })
    }
}

/// Bytes by which a gap or a repetition shows.
pub fn flood(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

/// Programs write to one pipe where they have a terminal.
fn output(process: &mut Process, stderr: bool) -> &mut Pipe {
    let index = usize::from(stderr && !process.terminal);
    &mut process.outputs[index]
}

pub fn started(process: &mut Process) -> Option<Ends> {
    let Program::Print { stdout, stderr, status } = process.program.clone() else { return None };
    output(process, false).bytes.extend(stdout);
    output(process, true).bytes.extend(stderr);
    Some(Ends(status))
}

pub fn signalled(process: &mut Process, signal: Signal) -> Option<Ends> {
    match (signal, &process.program) {
        (Signal::Kill, _) => Some(Ends(ExitStatus::Signal(9))),
        (Signal::Terminate, Program::Stubborn) => None,
        (Signal::Terminate, Program::Noise) => {
            output(process, false).bytes.extend(b"TERM\n");
            None
        }
        (Signal::Terminate, _) => Some(Ends(ExitStatus::Signal(15))),
    }
}

pub fn written(process: &mut Process, data: &[u8]) {
    if process.stdin_open && process.program == Program::Cat {
        output(process, false).bytes.extend(data);
    }
}

pub fn stdin_ended(process: &mut Process) -> Option<Ends> {
    if process.terminal {
        return None;
    }
    process.stdin_open = false;
    (process.program == Program::Cat).then_some(Ends(ExitStatus::Code(0)))
}

pub fn resized(process: &mut Process, columns: u16, rows: u16) {
    if process.terminal && process.program == Program::Noise {
        output(process, false).bytes.extend(format!("{columns}x{rows}\n").bytes());
    }
}
