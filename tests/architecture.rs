//! The dependency rule between the modules of `src`, and what every source file there has to look like.
//!
//! A file may name its own top module, modules in lower rows, and the crates of its own and lower rows. Test code may
//! also use the dev-dependencies and the whole of std. What is checked is what is written: `use` items, paths in code,
//! in macros and in attributes.

#[path = "architecture/paths.rs"]
mod paths;

use std::{
    fs,
    path::{Path, PathBuf},
};

use paths::{Reference, module_path, references, test_modules};

/// One row of the table: its modules see the rows below.
struct Row {
    modules: &'static [&'static str],
    /// Whether modules of the row may name each other.
    together: bool,
    /// Crates, or parts of a crate, that this row and those above may use.
    crates: &'static [&'static str],
}

/// From the bottom.
const ROWS: [Row; 6] = [
    Row {
        modules: &["ipam", "shard"],
        together: false,
        crates: &["ipnet", "range_set_blaze", "consistent_hash", "xxhash_rust", "jiff", "thiserror"],
    },
    Row {
        modules: &["api"],
        together: false,
        crates: &[
            "serde",
            "serde_json",
            "serde_path_to_error",
            "serde_saphyr",
            "schemars",
            "k8s_openapi",
            "kube::core",
            "kube::CustomResource",
            "kube::CustomResourceExt",
            "kube::Resource",
            "kube::ResourceExt",
        ],
    },
    Row { modules: &["pool"], together: false, crates: &[] },
    Row {
        modules: &["k8s", "telemetry"],
        together: false,
        crates: &[
            "arc_swap",
            "axum",
            "axum_server",
            "bytes",
            "futures",
            "http",
            "http_body",
            "hyper",
            "hyper_util",
            "kube",
            "kube_leader_election",
            "opentelemetry",
            "opentelemetry_otlp",
            "opentelemetry_sdk",
            "opentelemetry_semantic_conventions",
            "prometheus_client",
            "rand",
            "rcgen",
            "rustix",
            "rustls",
            "tokio",
            "tokio_rustls",
            "tokio_util",
            "tower",
            "tracing",
            "tracing_opentelemetry",
            "tracing_subscriber",
            "x509_parser",
        ],
    },
    Row { modules: &["controllers", "webhooks"], together: false, crates: &[] },
    Row { modules: &["app", "cli", "main"], together: true, crates: &["anyhow", "clap"] },
];

/// Rows below this one decide, and see neither clock nor machine: both come in as values.
const FIRST_ROW_WITH_EFFECTS: usize = 3;
const EFFECTS: [&str; 11] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// Lines of a file up to its tests, which do not count.
const LONGEST_FILE: usize = 500;
const NAMES_THAT_SAY_NOTHING: [&str; 6] = ["util", "utils", "helper", "helpers", "common", "misc"];

fn row_of(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.modules.contains(&module))
}

fn is_within(path: &str, part: &str) -> bool {
    path == part || path.strip_prefix(part).is_some_and(|rest| rest.starts_with("::"))
}

fn crate_of(path: &str) -> &str {
    path.split("::").next().unwrap_or(path)
}

/// Why a file of `top`, in `row`, may not have this reference.
fn objection(top: &str, row: usize, reference: &Reference, dev_crates: &[String]) -> Option<String> {
    match reference {
        Reference::Module { name, .. } if name == top => None,
        Reference::Module { name, .. } => match row_of(name) {
            None => Some(format!("names crate::{name}, which is in no row")),
            Some(other) if other < row || (other == row && ROWS[row].together) => None,
            Some(_) => Some(format!("names crate::{name}, which is not below {top}")),
        },
        Reference::Crate { path, in_test } if ["std", "core", "alloc"].contains(&crate_of(path)) => {
            let is_pure = row < FIRST_ROW_WITH_EFFECTS && !in_test;
            let effect = is_pure.then(|| EFFECTS.iter().find(|effect| is_within(path, effect))).flatten();
            effect.map(|effect| format!("uses {effect}, but {top} only decides"))
        }
        Reference::Crate { path, in_test } => {
            let of_row = ROWS[..=row].iter().flat_map(|row| row.crates).any(|part| is_within(path, part));
            let of_tests = *in_test && dev_crates.iter().any(|name| name == crate_of(path));
            (!of_row && !of_tests).then(|| format!("uses {path}, which {top} may not"))
        }
    }
}

/// The crates that a manifest declares in a section, as they are written in code.
fn declared(manifest: &str, section: &str) -> Vec<String> {
    let header = format!("[{section}]");
    let lines = manifest.lines().skip_while(|line| *line != header).skip(1).take_while(|line| !line.starts_with('['));
    let name = |line: &str| line.split(['.', '=', ' ']).next().unwrap_or_default().replace('-', "_");
    lines.filter(|line| line.contains('=') && !line.starts_with('#')).map(name).collect()
}

/// What is wrong with the dependencies of the files, given as path below `src` and content.
fn broken_rules(files: &[(String, String)], manifest: &str) -> Vec<String> {
    let dev_crates = declared(manifest, "dev-dependencies");
    let mut crates = [declared(manifest, "dependencies"), dev_crates.clone()].concat();
    crates.extend(ROWS.iter().flat_map(|row| row.crates).map(|path| crate_of(path).to_owned()));
    crates.extend(["std", "core", "alloc"].map(ToOwned::to_owned));

    let test_modules = test_modules(files);
    let mut broken = Vec::new();
    for (file, source) in files.iter().filter(|(file, _)| file != "lib.rs") {
        let module = module_path(file);
        let top = if file == "main.rs" { "main" } else { module[0].as_str() };
        let Some(row) = row_of(top) else {
            broken.push(format!("{file}: {top} is in no row"));
            continue;
        };
        let in_test = test_modules.iter().any(|test| module.starts_with(test));
        let found = references(source, &module, in_test, &crates);
        broken.extend(
            found
                .iter()
                .filter_map(|reference| objection(top, row, reference, &dev_crates))
                .map(|why| format!("{file} {why}")),
        );
    }
    broken
}

/// What is wrong with the form of one file.
fn bad_form(file: &str, source: &str) -> Vec<String> {
    let mut bad = Vec::new();
    let lines = source.lines().take_while(|line| *line != "#[cfg(test)]").count();
    if lines > LONGEST_FILE {
        bad.push(format!("{file} has {lines} lines before its tests, more than {LONGEST_FILE}"));
    }
    if !source.starts_with("//! ") {
        bad.push(format!("{file} does not start with a //! sentence"));
    }
    let names = file.trim_end_matches(".rs").split('/');
    bad.extend(
        names
            .filter(|name| NAMES_THAT_SAY_NOTHING.contains(name))
            .map(|name| format!("{file}: {name} says nothing about what is in it")),
    );
    bad
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn manifest() -> String {
    fs::read_to_string(root().join("Cargo.toml")).expect("the manifest")
}

/// The sources, as paths below `src` and their content.
fn sources() -> Vec<(String, String)> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let src = root().join("src");
    let mut found = Vec::new();
    collect(&src, &mut found);
    found.sort();
    let below = |path: &PathBuf| path.strip_prefix(&src).expect("below src").to_string_lossy().replace('\\', "/");
    found.iter().map(|path| (below(path), fs::read_to_string(path).expect("a source"))).collect()
}

#[test]
fn the_sources_keep_the_dependency_rule() {
    let sources = sources();
    assert!(sources.iter().any(|(file, _)| file == "api/mod.rs"), "the sources are found");
    let broken = broken_rules(&sources, &manifest());
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn the_sources_have_the_right_form() {
    let bad: Vec<_> = sources().iter().flat_map(|(file, source)| bad_form(file, source)).collect();
    assert!(bad.is_empty(), "\n{}", bad.join("\n"));
}

#[test]
fn every_dependency_has_a_row() {
    let dependencies = declared(&manifest(), "dependencies");
    assert!(dependencies.iter().any(|name| name == "k8s_openapi"), "the dependencies are found: {dependencies:?}");
    for name in dependencies {
        let has_row = ROWS.iter().flat_map(|row| row.crates).any(|path| crate_of(path) == name);
        assert!(has_row, "{name} is in Cargo.toml but in no row of tests/architecture.rs");
    }
}

mod samples {
    //! The checks see what they are for.

    use super::*;

    const MANIFEST: &str = "[dependencies]\nkube.workspace = true\ntokio = \"1\"\nnew-crate = \"1\"\n\n\
                            [dev-dependencies]\nproptest = \"1\"\n\n[lints]\nworkspace = true\n";

    fn broken(file: &str, source: &str) -> Vec<String> {
        broken_rules(&[(file.to_owned(), source.to_owned())], MANIFEST)
    }

    #[test]
    fn these_dependencies_are_refused() {
        let cases = [
            ("pool/mod.rs", "use crate::k8s::Client;", "pool/mod.rs names crate::k8s, which is not below pool"),
            ("ipam/set.rs", "use crate::{ipam::Range, shard};", "names crate::shard, which is not below ipam"),
            ("ipam/set.rs", "use super::super::api;", "names crate::api"),
            ("ipam/mod.rs", "use super::pool::Machine;", "names crate::pool"),
            ("api/mod.rs", "mod inner { use super::super::pool; }", "names crate::pool"),
            ("api/mod.rs", "fn f() { crate::pool::step() }", "names crate::pool"),
            ("api/mod.rs", "fn f() -> super::pool::Step { todo!() }", "names crate::pool"),
            ("api/mod.rs", "fn f() { println!(\"{}\", crate::pool::N) }", "names crate::pool"),
            ("controllers/mod.rs", "pub use crate::webhooks::serve as s;", "names crate::webhooks"),
            ("k8s/mod.rs", "use crate::telemetry;", "names crate::telemetry"),
            ("telemetry/mod.rs", "use crate::app::*;", "names crate::app"),
            ("pool/mod.rs", "use crate::nowhere::X;", "names crate::nowhere, which is in no row"),
            ("stray.rs", "", "stray is in no row"),
            ("api/mod.rs", "use kube::Client;", "uses kube::Client, which api may not"),
            ("api/mod.rs", "use kube::{core::Resource, runtime};", "uses kube::runtime"),
            ("api/mod.rs", "use kube::*;", "uses kube::*"),
            ("api/mod.rs", "use kube;", "uses kube"),
            ("api/mod.rs", "extern crate tokio;", "uses tokio"),
            ("api/mod.rs", "fn f() { ::tokio::spawn(g()); }", "uses tokio::spawn"),
            ("pool/mod.rs", "#[tokio::main] async fn f() {}", "uses tokio::main"),
            ("ipam/mod.rs", "#[derive(serde::Serialize)] struct S;", "uses serde::Serialize, which ipam may not"),
            ("ipam/mod.rs", "#[cfg_attr(test, derive(serde::Serialize))] struct S;", "uses serde::Serialize"),
            ("ipam/mod.rs", "use proptest::prelude::*;", "uses proptest::prelude::*"),
            ("pool/mod.rs", "use new_crate::X;", "uses new_crate::X"),
            ("main.rs", "fn f(_: new_crate::X) {}", "uses new_crate::X, which main may not"),
            ("pool/mod.rs", "use std::{fmt, time::{Duration, Instant}};", "uses std::time::Instant, but pool only"),
            ("api/mod.rs", "fn f() { std::fs::read(\"x\"); }", "uses std::fs"),
            ("shard/mod.rs", "macro_rules! m { () => { std::env::var(\"X\") } }", "uses std::env"),
            ("pool/mod.rs", "#[cfg(test)] mod tests { use crate::k8s; }", "names crate::k8s"),
            ("ipam/mod.rs", "#[cfg(test)] mod tests { use tokio::task; }", "uses tokio::task"),
            ("ipam/mod.rs", "#[cfg(not(test))] mod x { use proptest::num; }", "uses proptest::num"),
        ];
        for (file, source, why) in cases {
            let broken = broken(file, source);
            assert!(broken.len() == 1 && broken[0].contains(why), "{file}: {source}\n{broken:?}");
        }
    }

    #[test]
    fn these_dependencies_are_allowed() {
        let cases = [
            ("pool/mod.rs", "use crate::{api::names, ipam, pool::claim, shard::key};"),
            ("pool/claim.rs", "use super::record::Record; use super::super::ipam::Range; use self::x::Y;"),
            ("pool/claim.rs", "pub(crate) struct A; pub(in crate::pool) struct B; pub(super) struct C;"),
            ("api/mod.rs", "use kube::{CustomResource, core::{ApiResource, Resource}}; #[kube(a = \"b\")] struct S;"),
            ("api/mod.rs", "/// Like [`crate::pool`].\nconst TEXT: &str = \"crate::pool\"; // crate::pool"),
            ("api/mod.rs", "mod names; use names::X; fn f() { let tokio = 1; tokio; }"),
            ("k8s/mod.rs", "use kube::{Client, runtime}; use std::time::Instant; use crate::pool;"),
            ("ipam/mod.rs", "use std::{net::{IpAddr, Ipv6Addr}, time::Duration}; use jiff::Timestamp;"),
            ("ipam/mod.rs", "#[cfg(test)] mod tests { use proptest::prelude::*; use std::fs; use super::*; }"),
            ("main.rs", "use capi_ipam::{app, cli}; use clap::Parser; fn main() { crate::inner() }"),
            ("app.rs", "use crate::cli::Options; use anyhow::Result; use crate::controllers;"),
            ("lib.rs", "pub mod anything; use new_crate::X;"),
        ];
        for (file, source) in cases {
            assert_eq!(broken(file, source), Vec::<String>::new(), "{file}: {source}");
        }
    }

    #[test]
    fn a_file_behind_cfg_test_is_test_code() {
        let files = |declaration: &str| {
            [
                ("ipam/mod.rs", declaration),
                ("ipam/fixtures/mod.rs", "mod deep;"),
                ("ipam/fixtures/deep.rs", "use proptest::num;"),
            ]
            .map(|(file, source)| (file.to_owned(), source.to_owned()))
        };
        assert!(broken_rules(&files("#[cfg(test)] mod fixtures;"), MANIFEST).is_empty());
        assert_eq!(broken_rules(&files("mod fixtures;"), MANIFEST).len(), 1);
    }

    #[test]
    fn a_bad_form_is_seen() {
        let long = format!("//! Long.\n{}", "\n".repeat(LONGEST_FILE));
        assert_eq!(bad_form("pool/a.rs", &long).len(), 1);
        assert_eq!(bad_form("pool/a.rs", "use x;\n").len(), 1);
        assert_eq!(bad_form("pool/util.rs", "//! A sentence.\n").len(), 1);
        assert_eq!(bad_form("common/mod.rs", "//! A sentence.\n").len(), 1);
        let tests = format!("//! Short.\n#[cfg(test)]\n{}", "\n".repeat(LONGEST_FILE));
        assert_eq!(bad_form("pool/utility_pole.rs", &tests), Vec::<String>::new());
    }
}
