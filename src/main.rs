//! gardend: see the library.

use gardend::cli::{self, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            cli::report_error(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let status = match cli.command {
        Command::Client(command) => runtime.block_on(cli::run_client(command, cli.globals)),
        Command::Serve(_) | Command::Check(_) => {
            cli::report_error("this build holds the client commands alone");
            ExitCode::FAILURE
        }
    };
    // Nobody waits for a look-up of a name, or for a thread that reads stdin.
    runtime.shutdown_background();
    status
}
