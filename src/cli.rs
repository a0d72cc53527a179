//! Flags and subcommands: the command line in Go's syntax becomes a typed [`Command`], or a [`Usage`] to show.

mod duration;
mod flags;
mod options;
mod pflag;
mod values;

use std::error::Error as _;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _};

use crate::pool::key::PoolKey;
use flags::{Flags, Subcommands};
pub use options::{Diagnostics, Election, Identity, Options, Overlap, Tls, TlsVersion, Webhooks};

/// Exit code of a command line that cannot be understood, as Go's flag packages have it.
const USAGE_EXIT_CODE: u8 = 2;

/// What the program was asked to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Run the provider.
    Manager(Box<Options>),
    /// Print the custom resource definitions.
    Crds,
    /// Show who works on what.
    Shards(ShardsOptions),
}

/// What `manager shards` shows, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardsOptions {
    /// Only this pool, which need not exist.
    pub pool: Option<PoolKey>,
    /// Kubeconfig file that was asked for.
    pub kubeconfig: Option<String>,
    /// Namespace of the Leases, where it was given or is the Pod's.
    pub namespace: Option<String>,
    /// For programs instead of people.
    pub json: bool,
}

/// A command line after which nothing runs: help that was asked for, or an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Usage {
    /// The text that `--help` or `--version` asked for.
    Shown(String),
    /// One line about what is wrong.
    Wrong(String),
}

impl Usage {
    /// Shows it where it belongs (asked for: stdout; wrong: stderr) and says how to exit.
    pub fn report(&self) -> ExitCode {
        // Nobody is left to tell when the terminal is gone, hence no look at the result.
        match self {
            Self::Shown(text) => {
                let _ = std::io::stdout().write_all(text.as_bytes());
                ExitCode::SUCCESS
            }
            Self::Wrong(line) => {
                let _ = writeln!(std::io::stderr(), "manager: {line}\nTry 'manager --help'.");
                ExitCode::from(USAGE_EXIT_CODE)
            }
        }
    }
}

/// Reads the command line, program name first, and the identity in the environment.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Usage> {
    parse_with(args, &|name| std::env::var(name).ok())
}

/// [`parse`] with the environment given as a function, because a process has only one environment to test with.
fn parse_with(
    args: impl IntoIterator<Item = OsString>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Command, Usage> {
    let command = Flags::command();
    let arguments = pflag::rewrite(args, &command);
    let matches = command.try_get_matches_from(arguments.kept).map_err(|error| usage(&error))?;
    let flags = Flags::from_arg_matches(&matches).map_err(|error| usage(&error))?;
    match flags.command {
        Some(Subcommands::Crds) => Ok(Command::Crds),
        Some(Subcommands::Shards(shards)) => Ok(Command::Shards(ShardsOptions {
            pool: shards.pool,
            // Given before the subcommand, it means the same.
            kubeconfig: shards.kubeconfig.or(flags.kubeconfig).filter(|file| !file.is_empty()),
            namespace: shards.namespace.or_else(|| variable("POD_NAMESPACE")).filter(|name| !name.is_empty()),
            json: shards.output == "json",
        })),
        None => Ok(Command::Manager(Box::new(Options::assemble(flags, &matches, &arguments.concurrency, variable)))),
    }
}

fn usage(error: &clap::Error) -> Usage {
    let flag = text(error, ContextKind::InvalidArg).unwrap_or_default();
    // clap adds the placeholder: `--shards <N>`, `--v <N>`.
    let flag = flag.split([' ', '[']).next().unwrap_or_default().trim_end_matches('=');
    let value = text(error, ContextKind::InvalidValue).unwrap_or_default();
    let line = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return Usage::Shown(error.render().to_string()),
        ErrorKind::UnknownArgument if !flag.starts_with('-') => format!("unexpected argument {flag:?}"),
        ErrorKind::UnknownArgument => match text(error, ContextKind::SuggestedArg) {
            Some(similar) => format!("unknown flag {flag}; did you mean {similar}?"),
            None => format!("unknown flag {flag}"),
        },
        ErrorKind::InvalidSubcommand => {
            format!("unknown command {:?}", text(error, ContextKind::InvalidSubcommand).unwrap_or_default())
        }
        ErrorKind::InvalidValue if value.is_empty() => format!("{flag} needs a value"),
        ErrorKind::InvalidValue => {
            let valid = text(error, ContextKind::ValidValue).unwrap_or_default();
            format!("{flag}: {value:?} is none of {valid}")
        }
        ErrorKind::ValueValidation => {
            let reason = error.source().map(ToString::to_string).unwrap_or_default();
            format!("{flag}: {value:?} {}", as_predicate(&reason))
        }
        _ => first_line(error),
    };
    Usage::Wrong(line)
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => Some(texts.join(", ")),
        _ => None,
    }
}

/// Our own reasons continue the sentence that the value begins; those of the standard library and clap do not.
fn as_predicate(reason: &str) -> String {
    let continues = ["is ", "has ", "lacks ", "must "].iter().any(|verb| reason.starts_with(verb));
    if continues { reason.to_owned() } else { format!("is not accepted: {reason}") }
}

fn first_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests;
