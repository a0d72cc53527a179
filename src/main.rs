//! The `manager` program.

use std::io::Write;
use std::process::ExitCode;

use capi_ipam::cli::{self, Command};
use capi_ipam::{api, app};

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(usage) => return usage.report(),
    };
    match command {
        // Nobody is left to tell when the reader of a pipe is gone, hence no look at the result.
        Command::Crds => drop(std::io::stdout().write_all(api::crds_yaml().as_bytes())),
        Command::Shards(options) => match app::shards(&options) {
            Ok(text) => drop(std::io::stdout().write_all(text.as_bytes())),
            Err(error) => return failure(&error),
        },
        Command::Manager(options) => {
            if let Err(error) = app::run(*options) {
                return failure(&error);
            }
        }
    }
    ExitCode::SUCCESS
}

fn failure(error: &anyhow::Error) -> ExitCode {
    let line = format!("{error:#}").replace('\n', " ");
    drop(writeln!(std::io::stderr(), "manager: {line}"));
    ExitCode::FAILURE
}
