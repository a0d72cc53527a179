//! Arguments in the ways of Go's flag packages that clap does not know, rewritten before clap sees them.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};

/// How the names end of the flags by which Cluster API's operator limits each controller of a provider.
const CONCURRENCY: &str = "-concurrency";

/// Arguments that clap understands, and the flags that were taken out of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) kept: Vec<OsString>,
    /// Names (with dashes) of the `--<kind>-concurrency` flags that were given.
    pub(super) concurrency: Vec<String>,
}

/// Rewrites `-flag` to `--flag`, and takes out `--<kind>-concurrency` with its value.
///
/// Values are left alone: what follows a flag that needs a value is never read as a flag, like in Go.
pub(super) fn rewrite(args: impl IntoIterator<Item = OsString>, command: &clap::Command) -> Arguments {
    let takes_next = long_flags(command);
    let mut args = args.into_iter();
    let mut kept: Vec<OsString> = args.next().into_iter().collect();
    let mut concurrency = Vec::new();
    while let Some(arg) = args.next() {
        if arg == "--" {
            kept.push(arg);
            kept.extend(args);
            break;
        }
        let Some((name, has_value)) = long_name(&arg) else {
            // `-v 5`: the only short flag with a value of its own argument.
            let is_verbosity = arg == "-v";
            kept.push(arg);
            kept.extend(is_verbosity.then(|| args.next()).flatten());
            continue;
        };
        if let Some(takes_next) = takes_next.get(name) {
            kept.push(with_two_dashes(&arg));
            kept.extend((*takes_next && !has_value).then(|| args.next()).flatten());
        } else if name.ends_with(CONCURRENCY) {
            concurrency.push(format!("--{name}"));
            if !has_value {
                args.next();
            }
        } else {
            kept.push(arg);
        }
    }
    Arguments { kept, concurrency }
}

/// The long flags of the command, and whether each takes the next argument as its value.
fn long_flags(command: &clap::Command) -> HashMap<&str, bool> {
    let takes_next = |arg: &clap::Arg| arg.get_action().takes_values() && !arg.is_require_equals_set();
    command.get_arguments().filter_map(|arg| Some((arg.get_long()?, takes_next(arg)))).collect()
}

/// The name in `-name`, `--name`, `-name=value` or `--name=value`, and whether there is a value.
fn long_name(arg: &OsStr) -> Option<(&str, bool)> {
    let dashed = arg.to_str()?.strip_prefix('-')?;
    let text = dashed.strip_prefix('-').unwrap_or(dashed);
    let (name, has_value) = match text.split_once('=') {
        Some((name, _)) => (name, true),
        None => (text, false),
    };
    // With one dash, one letter is a short flag: `-v`, `-v=5`, `-h`.
    let is_long = name.len() > 1 || text.len() < dashed.len();
    is_long.then_some((name, has_value))
}

fn with_two_dashes(arg: &OsStr) -> OsString {
    match arg.to_str() {
        Some(text) if !text.starts_with("--") => OsString::from(format!("-{text}")),
        _ => arg.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn rewritten(line: &str) -> (String, Vec<String>) {
        let command = super::super::flags::Flags::command();
        let Arguments { kept, concurrency } = rewrite(line.split(' ').map(OsString::from), &command);
        let kept: Vec<_> = kept.iter().map(|arg| arg.to_str().expect("UTF-8").to_owned()).collect();
        (kept.join(" "), concurrency)
    }

    #[test]
    fn one_dash_becomes_two_for_known_flags_only() {
        assert_eq!(rewritten("manager -leader-elect -namespace a").0, "manager --leader-elect --namespace a");
        assert_eq!(rewritten("manager -leader-elect=false -v=5 -h -V").0, "manager --leader-elect=false -v=5 -h -V");
        assert_eq!(rewritten("manager -leader-elekt").0, "manager -leader-elekt");
    }

    #[test]
    fn values_are_not_read_as_flags() {
        assert_eq!(rewritten("manager --namespace -leader-elect").0, "manager --namespace -leader-elect");
        assert_eq!(rewritten("manager -v -namespace x").0, "manager -v -namespace x");
        assert_eq!(rewritten("manager --leader-elect -namespace x").0, "manager --leader-elect --namespace x");
        assert_eq!(rewritten("manager -- -namespace x").0, "manager -- -namespace x");
    }

    #[test]
    fn flags_of_concurrency_go_with_their_values() {
        let names = vec!["--ipaddressclaim-concurrency".to_owned(), "--inclusterippool-concurrency".to_owned()];
        let line = "manager --ipaddressclaim-concurrency 5 -inclusterippool-concurrency=7 --namespace a";
        assert_eq!(rewritten(line), ("manager --namespace a".to_owned(), names));
        assert_eq!(rewritten("manager --namespace --x-concurrency").1, Vec::<String>::new());
    }
}
