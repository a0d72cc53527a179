//! Reads metrics in the text format of Prometheus.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Reads a scrape; lines that are no samples are left out.
    pub fn parse(text: &str) -> Self {
        Self { samples: text.lines().filter_map(sample).collect() }
    }

    /// The sum over all samples of `name` that carry these labels. None: there is no such sample.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let matching = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
        };
        self.samples.iter().filter(matching).map(|sample| sample.value).reduce(|sum, value| sum + value)
    }

    /// The sum per value of these labels; several values stand with a space in between.
    pub fn sum_by(&self, name: &str, labels: &[&str]) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.samples.iter().filter(|sample| sample.name == name) {
            let values = labels.iter().map(|label| sample.labels.get(*label).map_or("", String::as_str));
            *sums.entry(values.collect::<Vec<_>>().join(" ")).or_default() += sample.value;
        }
        sums
    }

    /// All names.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.samples.iter().map(|sample| sample.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn sample(line: &str) -> Option<Sample> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (name, labels, rest) = match line.find('{') {
        None => {
            let (name, rest) = line.split_once(' ')?;
            (name, BTreeMap::new(), rest)
        }
        Some(start) => {
            let (labels, rest) = labels(&line[start + 1..])?;
            (&line[..start], labels, rest)
        }
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// The labels up to the closing brace, and what follows it.
fn labels(mut text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (key, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = rest.char_indices();
        loop {
            match characters.next()? {
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (end, '"') => {
                    text = &rest[end + 1..];
                    break;
                }
                (_, other) => value.push(other),
            }
        }
        labels.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_labels() {
        let metrics = Metrics::parse(
            "# HELP requests_total x\nrequests_total{verb=\"POST\",code=\"201\"} 3\nrequests_total{verb=\"POST\",code=\"409\"} 2 1700000000\nrequests_total{verb=\"GET\",code=\"200\"} 1.5e1\nup 1\n",
        );
        assert_eq!(metrics.sum("requests_total", &[("verb", "POST")]), Some(5.0));
        assert_eq!(metrics.sum("requests_total", &[]), Some(20.0));
        assert_eq!(metrics.sum("up", &[]), Some(1.0));
        assert_eq!(metrics.sum("down", &[]), None);
        assert_eq!(metrics.sum_by("requests_total", &["verb"]).get("GET"), Some(&15.0));
        assert_eq!(metrics.sum_by("requests_total", &["verb", "code"]).get("POST 409"), Some(&2.0));
    }

    #[test]
    fn label_values_may_hold_braces_commas_and_quotes() {
        let metrics = Metrics::parse("m{a=\"x,}y\",b=\"say \\\"hi\\\"\"} 7\n");
        assert_eq!(metrics.sum("m", &[("a", "x,}y"), ("b", "say \"hi\"")]), Some(7.0));
    }
}
