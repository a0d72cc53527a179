//! docs/reference/behaviour.md and the tests: every rule has tests, every test that it names exists, and no test of a
//! rule is left out.
//!
//! A section of the document is a rule, and ends with a paragraph `Tests:` that names test functions in backticks. A test
//! of a rule is called after it: `rule_c12_…`, or `rule_c7_c8_…` if it is one of two. Rules O and F are those of
//! docs/sharding.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Headings of the first chapter, which have no numbers.
const UNNUMBERED: [&str; 4] = ["Kinds and versions", "IP pool spec", "Prefix pool spec", "Pool status and counts"];

/// What the document says: the title of each rule, and the tests that it names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rule {
    title: String,
    tests: BTreeSet<String>,
}

/// `B1` of `B1 Lowest first`; the whole title where it has no number.
fn id_of(title: &str) -> String {
    let first = title.split_whitespace().next().unwrap_or_default();
    let is_number = first.len() > 1 && first[1..].bytes().all(|byte| byte.is_ascii_digit());
    if is_number && first.starts_with(['B', 'C']) { first.to_owned() } else { title.to_owned() }
}

/// The rules of the document, in its order.
fn rules(document: &str) -> Vec<(String, Rule)> {
    let mut rules: Vec<(String, Rule)> = Vec::new();
    let mut in_tests = false;
    for line in document.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            rules.push((id_of(title), Rule { title: title.to_owned(), ..Rule::default() }));
        }
        in_tests = !line.is_empty() && (in_tests || line.starts_with("Tests: "));
        if let (true, Some((_, rule))) = (in_tests, rules.last_mut()) {
            rule.tests.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    rules
}

/// The functions of a source that a test runner runs.
fn tests_in(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test && !line.starts_with("//")) {
            found.insert(rest.split(['(', '<']).next().unwrap_or_default().to_owned());
            is_test = false;
        }
    }
    found
}

/// The rules that a test is named after: `C7` and `C8` of `rule_c7_c8_a_claim_…`.
fn rules_of(test: &str) -> Vec<String> {
    let Some(name) = test.strip_prefix("rule_") else { return Vec::new() };
    let id = |part: &str| {
        let digits = part.get(1..)?.trim_end_matches(|last: char| last.is_ascii_lowercase());
        let is_id = part.starts_with(['b', 'c', 'o', 'f']) && digits.parse::<u8>().is_ok();
        is_id.then(|| format!("{}{digits}", part[..1].to_uppercase()))
    };
    name.split('_').map_while(id).collect()
}

/// Everything in which the document and the tests do not agree.
fn disagreements(document: &str, sharding: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let rules = rules(document);
    let by_id: BTreeMap<&str, &Rule> = rules.iter().map(|(id, rule)| (id.as_str(), rule)).collect();
    if by_id.len() < rules.len() {
        wrong.push("two rules have the same number".to_owned());
    }
    for (_, rule) in &rules {
        if rule.tests.is_empty() {
            wrong.push(format!("{}: no test holds it", rule.title));
        }
        let missing = rule.tests.iter().filter(|test| !tests.contains(*test));
        wrong.extend(missing.map(|test| format!("{}: there is no test {test}", rule.title)));
    }
    for test in tests.iter().filter(|test| test.starts_with("rule_")) {
        let named_after = rules_of(test);
        if named_after.is_empty() {
            wrong.push(format!("{test} is named after no rule"));
        }
        for id in named_after {
            if id.starts_with(['O', 'F']) {
                if ![" ", "**"].iter().any(|end| sharding.contains(&format!("**{id}{end}"))) {
                    wrong.push(format!("{test}: docs/sharding.md has no rule {id}"));
                }
                continue;
            }
            match by_id.get(id.as_str()) {
                None => wrong.push(format!("{test}: docs/reference/behaviour.md has no rule {id}")),
                Some(rule) if rule.tests.contains(test) => {}
                Some(rule) => wrong.push(format!("{}: does not name its test {test}", rule.title)),
            }
        }
    }
    wrong
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The tests of the whole workspace.
fn all_tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = ["src", "tests", "e2e/src", "e2e/tests"].map(|folder| root().join(folder)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with(file!()) {
                found.extend(tests_in(&fs::read_to_string(&path).expect("a source")));
            }
        }
    }
    found
}

#[test]
fn every_rule_is_held_by_tests_that_exist_and_no_test_of_a_rule_is_left_out() {
    let tests = all_tests();
    assert!(tests.contains("the_sources_keep_the_dependency_rule"), "the tests are found");
    let wrong = disagreements(&document("docs/reference/behaviour.md"), &document("docs/sharding.md"), &tests);
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_chapters_have_all_their_rules_in_order() {
    let ids: Vec<String> = rules(&document("docs/reference/behaviour.md")).into_iter().map(|(id, _)| id).collect();
    let mut sorted = ids.clone();
    let place = |id: &String| match UNNUMBERED.iter().position(|title| title == id) {
        Some(place) => (0, place),
        None => (usize::from(id.as_bytes()[0]), id[1..].parse().unwrap_or_else(|_| panic!("{id} is no rule"))),
    };
    sorted.sort_by_key(place);
    assert_eq!(ids, sorted);
    assert_eq!(ids[..UNNUMBERED.len()], UNNUMBERED);
    let numbered = |letter: char| ids.iter().filter(move |id| id.len() < 4 && id.starts_with(letter)).cloned();
    assert!(numbered('B').eq((1..=6).map(|number| format!("B{number}"))), "{ids:?}");
    assert!(numbered('C').eq((1..=19).map(|number| format!("C{number}"))), "{ids:?}");
}

mod samples {
    //! The check sees what it is for.

    use super::*;

    const DOCUMENT: &str = "# Title\n\n### IP pool spec\n\nWords with `code`.\n\nTests: `a_spec`.\n\n\
                            ### B1 Lowest first\n\nWords.\n\nTests: `rule_b1_x`,\n`another`.\n\n`words` after it.\n";

    fn found(document: &str, tests: &[&str]) -> Vec<String> {
        let tests = tests.iter().map(|test| (*test).to_owned()).collect();
        disagreements(document, "- **F5** Words.", &tests)
    }

    #[test]
    fn what_agrees_is_accepted() {
        let tests = ["a_spec", "rule_b1_x", "another", "not_about_rules", "rule_f5a_x"];
        assert_eq!(found(DOCUMENT, &tests), Vec::<String>::new());
    }

    #[test]
    fn what_does_not_agree_is_named() {
        let cases: [(&[&str], &str); 6] = [
            (&["a_spec", "rule_b1_x"], "B1 Lowest first: there is no test another"),
            (&["a_spec", "rule_b1_x", "another", "rule_b1_y"], "B1 Lowest first: does not name its test rule_b1_y"),
            (&["a_spec", "rule_b1_x", "another", "rule_c3_x"], "rule_c3_x: docs/reference/behaviour.md has no rule C3"),
            (&["a_spec", "rule_b1_x", "another", "rule_o7_x"], "rule_o7_x: docs/sharding.md has no rule O7"),
            (&["a_spec", "rule_b1_x", "another", "rule_of_thumb"], "rule_of_thumb is named after no rule"),
            (&["rule_b1_x", "another"], "IP pool spec: there is no test a_spec"),
        ];
        for (tests, complaint) in cases {
            assert_eq!(found(DOCUMENT, tests), [complaint]);
        }
        let untested = DOCUMENT.replace("Tests: `a_spec`.", "");
        let tests = ["rule_b1_x", "another"];
        assert_eq!(found(&untested, &tests), ["IP pool spec: no test holds it"]);
    }

    #[test]
    fn a_test_of_two_rules_belongs_to_both() {
        assert_eq!(rules_of("rule_c7_c12_x"), ["C7", "C12"]);
        assert_eq!(rules_of("rule_f5a_an_answer"), ["F5"]);
        assert_eq!(rules_of("c7_x"), Vec::<String>::new());
    }

    #[test]
    fn tests_are_told_from_other_functions() {
        let source = "#[test]\nfn a() {\n    fn inner() {}\n}\nfn b() {}\n#[tokio::test(start_paused = true)]\n\
                      // The fn of it.\nasync fn c() -> Result<()> {\n";
        assert_eq!(tests_in(source), ["a", "c"].map(str::to_owned).into());
    }
}
