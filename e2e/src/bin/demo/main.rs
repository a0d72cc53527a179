//! `make demo`: the provider at work, from nothing to addresses, in a minute.
#![expect(clippy::print_stdout, reason = "a program for people")]

mod console;
mod show;
mod stage;
mod views;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use console::Console;
use stage::Stage;

/// Shows the in-cluster IPAM provider for Cluster API at work.
#[derive(Debug, Parser)]
struct Arguments {
    /// Use the cluster of this kubeconfig instead of starting a control plane.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Leave everything running at the end.
    #[arg(long)]
    keep: bool,
}

/// What a shell reports for a program that was interrupted.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("the demo cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(arguments));
    // Not awaited: a build on a thread of its own may still run, and ends with this process.
    runtime.shutdown_background();
    code
}

async fn run(arguments: Arguments) -> ExitCode {
    let console = Console::new();
    let mut stage = Stage::new(console, arguments.kubeconfig.clone());
    let outcome = tokio::select! {
        outcome = show::all(console, &mut stage) => outcome.map(|()| ExitCode::SUCCESS),
        outcome = interrupted() => outcome.map(|()| ExitCode::from(INTERRUPTED)),
    };
    let code = match &outcome {
        Ok(code) => *code,
        Err(error) => {
            console.heading("The demo failed");
            console.say(&format!("{error:#}"));
            if let Some(log) = stage.manager_log() {
                console.say(&format!("The end of the manager's log, {}:", log.display()));
                console.block(&e2e::process::tail(&log, 15), 15);
            }
            ExitCode::FAILURE
        }
    };
    let ended = if arguments.keep && code == ExitCode::SUCCESS { stage.keep() } else { end(console, stage).await };
    match ended {
        Ok(()) => code,
        Err(error) => {
            console.say(&format!("cleaning up failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Cleans up; a second Ctrl-C ends that, too.
async fn end(console: Console, stage: Stage) -> Result<()> {
    console.heading("Cleaning up");
    tokio::select! {
        ended = stage.end() => ended,
        outcome = interrupted() => outcome,
    }
}

async fn interrupted() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
