//! As much of helm's template language as the chart's service account and RBAC are written in.
//!
//! Values such as `.Release.Name`, `include` of the chart's own named templates, and behind a `|` `quote`, `replace` and
//! `nindent`; `if` of a value or of `not` a value, with `else`; spaces next to `{{-` and `-}}` go, as in helm. Anything else is an error that shows it, so that a template
//! never means less here than there. `tests/chart.rs` compares the result with helm's own.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// A named template includes at most one other here; what is deeper includes itself.
const DEPTH: usize = 8;

/// What opens a block that an `end` closes.
const OPENING: [&str; 5] = ["define", "if", "range", "with", "block"];

/// Named templates, and the values that all templates see.
#[derive(Debug)]
pub(super) struct Templates {
    named: BTreeMap<String, Vec<Part>>,
    values: Value,
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Action(String),
}

impl Templates {
    /// The named templates of `file`, with `values` as what is called `.` there.
    pub(super) fn new(file: &str, values: Value) -> Result<Self> {
        Ok(Self { named: definitions(parts(file)?)?, values })
    }

    /// What a template becomes.
    pub(super) fn render(&self, template: &str) -> Result<String> {
        self.text(&parts(template)?, 0)
    }

    fn text(&self, parts: &[Part], depth: usize) -> Result<String> {
        ensure!(depth <= DEPTH, "a named template includes itself");
        let mut text = String::new();
        // Whether each open block, and all around it, is rendered.
        let mut open: Vec<(bool, bool)> = Vec::new();
        for part in parts {
            let is_shown = open.last().is_none_or(|(shown, _)| *shown);
            match part {
                Part::Text(part) if is_shown => text.push_str(part),
                Part::Action(action) if action.starts_with("if ") => {
                    let holds = self.condition(action).with_context(|| format!("{{{{ {action} }}}}"))?;
                    open.push((is_shown && holds, is_shown));
                }
                Part::Action(action) if action == "else" || action == "end" => {
                    let (shown, around) = open.pop().with_context(|| format!("{action} without its if"))?;
                    if action == "else" {
                        open.push((around && !shown, around));
                    }
                }
                Part::Action(action) if is_shown => {
                    let value = self.pipeline(action, depth).with_context(|| format!("{{{{ {action} }}}}"))?;
                    text.push_str(&value);
                }
                Part::Text(_) | Part::Action(_) => {}
            }
        }
        ensure!(open.is_empty(), "an if without its end");
        Ok(text)
    }

    /// Whether the value behind an `if` is true; only truth values are understood.
    fn condition(&self, action: &str) -> Result<bool> {
        let words: Vec<&str> = action.split_whitespace().skip(1).collect();
        let (path, negated) = match words.as_slice() {
            ["not", path] => (path, true),
            [path] => (path, false),
            _ => bail!("the end-to-end tests do not know this condition"),
        };
        match self.value(path)?.as_str() {
            "true" => Ok(!negated),
            "false" => Ok(negated),
            other => bail!("{path} is {other:?}, no truth value"),
        }
    }

    fn pipeline(&self, action: &str, depth: usize) -> Result<String> {
        let mut commands = commands(action)?.into_iter();
        let first = commands.next().unwrap_or_default();
        let first: Vec<&str> = first.iter().map(String::as_str).collect();
        let value = match first.as_slice() {
            ["include", name, "."] => {
                let name = literal(name)?;
                let parts = self.named.get(name).with_context(|| format!("no template is called {name:?}"))?;
                self.text(parts, depth + 1)?
            }
            [path] if path.starts_with('.') => self.value(path)?,
            _ => bail!("the end-to-end tests do not render this; see e2e/src/chart/template.rs"),
        };
        commands.try_fold(value, |value, command| applied(&command, &value))
    }

    fn value(&self, path: &str) -> Result<String> {
        let found = path.split('.').skip(1).try_fold(&self.values, |value, name| value.get(name));
        match found {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            Some(Value::Bool(flag)) => Ok(flag.to_string()),
            _ => bail!("{path} is no text, number or truth value"),
        }
    }
}

/// The value that comes out of one function of a pipeline.
fn applied(command: &[String], value: &str) -> Result<String> {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    Ok(match words.as_slice() {
        ["quote"] => serde_json::to_string(value)?,
        ["replace", from, to] => value.replace(literal(from)?, literal(to)?),
        ["nindent", columns] => {
            let margin = format!("\n{}", " ".repeat(columns.parse().context("nindent needs a number")?));
            format!("{margin}{}", value.replace('\n', &margin))
        }
        _ => bail!("the end-to-end tests do not know the function {}", words.join(" ")),
    })
}

/// The inside of a quoted word. Nothing of ours needs an escape.
fn literal(word: &str) -> Result<&str> {
    let inside = word.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inside.filter(|text| !text.contains('\\')).with_context(|| format!("{word} is no plain text in quotes"))
}

/// Splits an action into commands at `|`, and these into words; a text in quotes is one word.
fn commands(action: &str) -> Result<Vec<Vec<String>>> {
    let mut commands = vec![Vec::new()];
    let mut word = String::new();
    let mut quoted = false;
    for letter in action.chars().chain([' ']) {
        quoted ^= letter == '"';
        if quoted || !(letter.is_whitespace() || letter == '|') {
            word.push(letter);
            continue;
        }
        if let Some(command) = commands.last_mut().filter(|_| !word.is_empty()) {
            command.push(std::mem::take(&mut word));
        }
        if letter == '|' {
            commands.push(Vec::new());
        }
    }
    ensure!(!quoted, "a quote is missing");
    Ok(commands)
}

/// Splits a template into text and actions, drops comments, and trims text where an action asks for it.
fn parts(template: &str) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = template;
    let mut trimmed = false;
    while let Some((text, behind)) = rest.split_once("{{") {
        let (action, behind) = behind.split_once("}}").with_context(|| format!("no }}}} behind {{{{{behind:.40}"))?;
        let text = if trimmed { text.trim_start() } else { text };
        let (text, action) = match action.strip_prefix('-') {
            Some(action) => (text.trim_end(), action),
            None => (text, action),
        };
        let (action, trims) = match action.strip_suffix('-') {
            Some(action) => (action, true),
            None => (action, false),
        };
        parts.push(Part::Text(text.to_owned()));
        if !action.trim_start().starts_with("/*") {
            parts.push(Part::Action(action.trim().to_owned()));
        }
        (rest, trimmed) = (behind, trims);
    }
    parts.push(Part::Text(if trimmed { rest.trim_start() } else { rest }.to_owned()));
    Ok(parts)
}

/// What stands between each `define` and its `end`.
fn definitions(parts: Vec<Part>) -> Result<BTreeMap<String, Vec<Part>>> {
    let mut named = BTreeMap::new();
    let mut open: Option<(String, Vec<Part>, usize)> = None;
    for part in parts {
        let keyword = match &part {
            Part::Action(action) => action.split_whitespace().next().unwrap_or_default().to_owned(),
            Part::Text(_) => String::new(),
        };
        open = match (open, part) {
            (None, Part::Action(action)) => {
                let name = action.strip_prefix("define ").with_context(|| format!("{action} outside of a define"))?;
                Some((literal(name.trim())?.to_owned(), Vec::new(), 0))
            }
            (None, Part::Text(_)) => None,
            (Some((name, body, 0)), _) if keyword == "end" => {
                named.insert(name, body);
                None
            }
            (Some((name, mut body, depth)), part) => {
                let depth =
                    if keyword == "end" { depth - 1 } else { depth + usize::from(OPENING.contains(&keyword.as_str())) };
                body.push(part);
                Some((name, body, depth))
            }
        };
    }
    ensure!(open.is_none(), "a define without its end");
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rendered(named: &str, template: &str) -> Result<String> {
        Templates::new(
            named,
            json!({ "Release": { "Name": "r" }, "Chart": { "Version": "1+2" }, "On": true, "Off": false }),
        )?
        .render(template)
    }

    #[test]
    fn values_includes_and_functions_become_text() {
        let named = "{{/* A comment. */}}\n{{- define \"a\" -}}\nx: {{ .Release.Name | quote }}\n{{ include \"b\" . }}\n{{- end }}\n\
                     {{ define \"b\" }}v{{ .Chart.Version | replace \"+\" \"_\" }}{{ end }}";
        let text =
            rendered(named, "l:\n  {{- include \"a\" . | nindent 2 }}\nn: {{ .Release.Name }}\n").expect("renders");
        assert_eq!(text, "l:\n  x: \"r\"\n  v1_2\nn: r\n");
    }

    #[test]
    fn blocks_of_named_templates_that_are_not_used_are_passed_over() {
        let named =
            "{{ define \"a\" }}{{ if .X }}{{ with .Y }}1{{ end }}{{ end }}{{ end }}{{ define \"b\" }}2{{ end }}";
        assert_eq!(rendered(named, "{{ include \"b\" . }}").expect("renders"), "2");
    }

    #[test]
    fn conditions_choose_and_nest() {
        for (template, expected) in [
            ("{{ if .On }}a{{ else }}b{{ end }}c", "ac"),
            ("{{ if .Off }}a{{ else }}b{{ end }}c", "bc"),
            ("{{ if not .Off }}a{{ if .Off }}b{{ else }}c{{ end }}d{{ end }}", "acd"),
            ("{{ if .Off }}{{ if .On }}a{{ else }}b{{ end }}{{ .Nothing }}{{ end }}c", "c"),
            ("a:\n  {{- if .On }}\n  - b\n  {{- end }}\nc", "a:\n  - b\nc"),
        ] {
            assert_eq!(rendered("", template).expect("renders"), expected, "{template}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error_that_shows_it() {
        for (template, part) in [
            ("{{ if .Release.Name }}{{ end }}", "if .Release.Name"),
            ("{{ if and .On .On }}{{ end }}", "if and"),
            ("{{ if .On }}", "without its end"),
            ("{{ else }}", "without its if"),
            ("{{ range .On }}{{ end }}", "range .On"),
            ("{{ .Release.Name | upper }}", "upper"),
            ("{{ .Release.Nmae }}", ".Release.Nmae"),
            ("{{ .Release }}", ".Release is no text"),
            ("{{ include \"z\" . }}", "\"z\""),
            ("{{ .Release.Name", "no }}"),
            ("{{ .Release.Name | replace \"a }}", "quote"),
            ("{{ include \"a\" . }}", "includes itself"),
        ] {
            let error = rendered("{{ define \"a\" }}{{ include \"a\" . }}{{ end }}", template).expect_err(template);
            assert!(format!("{error:#}").contains(part), "{template}: {error:#}");
        }
        assert!(rendered("{{ define \"a\" }}", "").is_err(), "without its end");
    }
}
