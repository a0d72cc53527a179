//! Label and field selectors, as far as clients here need them: equality and existence.

use serde_json::Value;

use super::failure::Failure;
use super::metadata::Metadata as _;

/// All requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Is(String),
    IsNot(String),
    Exists,
    Absent,
}

impl Selector {
    pub(super) fn parse_labels(&mut self, text: &str) -> Result<(), Failure> {
        self.labels = parse(text)?;
        Ok(())
    }

    pub(super) fn parse_fields(&mut self, text: &str) -> Result<(), Failure> {
        self.fields = parse(text)?;
        let known = |requirement: &&Requirement| !["metadata.name", "metadata.namespace"].contains(&&*requirement.key);
        match self.fields.iter().find(known) {
            Some(other) => Err(Failure::bad_request(format!("field label not supported: {}", other.key))),
            None => Ok(()),
        }
    }

    pub(super) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let labels = object.metadata("labels");
        self.labels.iter().all(|requirement| requirement.holds(labels[&*requirement.key].as_str()))
            && self.fields.iter().all(|requirement| {
                let field = requirement.key.trim_start_matches("metadata.");
                requirement.holds(Some(object.text(field)))
            })
    }
}

impl Requirement {
    fn holds(&self, actual: Option<&str>) -> bool {
        match &self.test {
            Test::Is(value) => actual == Some(value),
            Test::IsNot(value) => actual != Some(value),
            Test::Exists => actual.is_some(),
            Test::Absent => actual.is_none(),
        }
    }
}

fn parse(text: &str) -> Result<Vec<Requirement>, Failure> {
    text.split(',').filter(|term| !term.trim().is_empty()).map(requirement).collect()
}

fn requirement(term: &str) -> Result<Requirement, Failure> {
    let (key, test) = if let Some((key, value)) = term.split_once("!=") {
        (key, Test::IsNot(value.trim().to_owned()))
    } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (key, Test::Is(value.trim().to_owned()))
    } else if let Some(key) = term.trim().strip_prefix('!') {
        (key, Test::Absent)
    } else {
        (term, Test::Exists)
    };
    let key = key.trim();
    if key.is_empty() || key.contains([' ', '(', ')']) {
        return Err(Failure::bad_request(format!("unable to parse requirement: {term:?}")));
    }
    Ok(Requirement { key: key.to_owned(), test })
}
