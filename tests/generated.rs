//! Generated files in the repository are what the code generates now.
//!
//! `UPDATE_GENERATED=1 cargo test --test generated` writes them anew.

use std::{
    fs,
    path::{Path, PathBuf},
};

use capi_ipam::api::{crd_yaml, crds};

const UPDATE: &str = "UPDATE_GENERATED";
const HEADER: &str = "# Generated from src/api: UPDATE_GENERATED=1 cargo test --test generated\n";

fn crd_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/capi-ipam-in-cluster/files/crds")
}

/// The CRD files as they should be: name and content.
fn crd_files() -> Vec<(String, String)> {
    let file = |crd| -> (String, String) {
        let content = format!("{HEADER}{}", crd_yaml(&crd));
        (format!("{}.yaml", crd.spec.names.plural), content)
    };
    crds().into_iter().map(file).collect()
}

/// What is wrong with the files in a folder, one sentence each.
fn differences(folder: &Path, expected: &[(String, String)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, content) in expected {
        match fs::read_to_string(folder.join(name)) {
            Ok(stored) if stored == *content => {}
            Ok(_) => wrong.push(format!("{name} is not current")),
            Err(error) => wrong.push(format!("{name} cannot be read: {error}")),
        }
    }
    let stored = fs::read_dir(folder).into_iter().flatten().flatten();
    for name in stored.map(|entry| entry.file_name().to_string_lossy().into_owned()) {
        if !expected.iter().any(|(known, _)| *known == name) {
            wrong.push(format!("{name} is not generated any more"));
        }
    }
    wrong
}

fn write(folder: &Path, files: &[(String, String)]) -> std::io::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    files.iter().try_for_each(|(name, content)| fs::write(folder.join(name), content))
}

#[test]
fn the_crds_of_the_chart_are_current() {
    let (folder, files) = (crd_folder(), crd_files());
    if std::env::var_os(UPDATE).is_some() {
        write(&folder, &files).expect("the CRDs can be written");
    }
    let wrong = differences(&folder, &files);
    assert!(wrong.is_empty(), "{}; run: {UPDATE}=1 cargo test --test generated", wrong.join(", "));
}

#[test]
fn a_changed_a_missing_and_a_left_over_file_are_seen() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("generated");
    let expected = [("a.yaml".to_owned(), "a".to_owned()), ("b.yaml".to_owned(), "b".to_owned())];
    write(&folder, &expected).expect("a folder of our own");
    assert_eq!(differences(&folder, &expected), Vec::<String>::new());

    fs::write(folder.join("a.yaml"), "changed").expect("write");
    fs::rename(folder.join("b.yaml"), folder.join("c.yaml")).expect("rename");
    let wrong = differences(&folder, &expected);
    assert_eq!(wrong.len(), 3, "{wrong:?}");
    assert_eq!(wrong[0], "a.yaml is not current");
    assert!(wrong[1].starts_with("b.yaml cannot be read"), "{wrong:?}");
    assert_eq!(wrong[2], "c.yaml is not generated any more");
}
