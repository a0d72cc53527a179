//! Builds the control plane of the tests into the cache, so that the first test does not wait for it.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::process::ExitCode;

use e2e::control_plane;

fn main() -> ExitCode {
    match control_plane::prepare() {
        Ok(programs) => {
            for path in programs {
                println!("{}", path.display());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            e2e::progress::say(format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
