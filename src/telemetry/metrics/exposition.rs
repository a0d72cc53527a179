//! The two texts in which metrics can be read: `OpenMetrics`, and Prometheus' older one for tools that know only that.

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// `OpenMetrics` 1.0, which Prometheus asks for.
    OpenMetrics,
    /// Prometheus' text format 0.0.4, which everybody else gets.
    Text,
}

impl Exposition {
    /// What a client gets that sent this `Accept` header.
    pub fn accepted_by(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Text,
        }
    }

    /// The media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// This format, from `OpenMetrics`.
    pub(super) fn of(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Text => older(&open_metrics),
        }
    }
}

/// `OpenMetrics` describes a counter without the suffix that its samples have, and ends with a mark; the older format
/// does neither.
fn older(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // The line before the type, held back until it is known whether it describes a counter.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let help = help.take().map_or("", |(_, help)| help);
            for part in ["# HELP ", name, suffix, " ", help, "\n# TYPE ", name, suffix, " ", kind, "\n"] {
                text.push_str(part);
            }
        } else if !line.starts_with("# ") {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_for_open_metrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Exposition::accepted_by(Some(prometheus)), Exposition::OpenMetrics);
        assert_eq!(Exposition::accepted_by(Some("text/plain")), Exposition::Text);
        assert_eq!(Exposition::accepted_by(Some("*/*")), Exposition::Text);
        assert_eq!(Exposition::accepted_by(None), Exposition::Text);
    }

    #[test]
    fn the_older_text_names_counters_as_their_samples() {
        let open_metrics = "# HELP a Counts things.\n# TYPE a counter\na_total{b=\"# TYPE\"} 1\n\
            # HELP c_seconds Is.\n# TYPE c_seconds gauge\n# UNIT c_seconds seconds\nc_seconds 2\n# EOF\n";
        let text = "# HELP a_total Counts things.\n# TYPE a_total counter\na_total{b=\"# TYPE\"} 1\n\
            # HELP c_seconds Is.\n# TYPE c_seconds gauge\nc_seconds 2\n";
        assert_eq!(Exposition::Text.of(open_metrics.to_owned()), text);
        assert_eq!(Exposition::OpenMetrics.of(open_metrics.to_owned()), open_metrics);
    }
}
