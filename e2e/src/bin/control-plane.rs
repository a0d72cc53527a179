//! Builds the control plane of the tests into the cache, so that the first test does not wait for it; with the argument
//! `cluster-api`, clusterctl and Cluster API's own manager instead.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::process::ExitCode;

use e2e::control_plane::{self, Tools};

fn main() -> ExitCode {
    let programs = match std::env::args().nth(1).as_deref() {
        Some("cluster-api") => Tools::find_or_build().map(|tools| vec![tools.clusterctl, tools.core_manager]),
        Some(other) => Err(anyhow::anyhow!("{other:?} is nothing that can be built; try cluster-api")),
        None => control_plane::prepare(),
    };
    match programs {
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
