//! Lines as they are written, with and without a trace around them.

use std::io::Write;
use std::sync::Mutex;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::{info, info_span};
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().expect("no writer panicked").clone();
        String::from_utf8(bytes).expect("UTF-8").lines().map(ToOwned::to_owned).collect()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no writer panicked").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn settings(format: Format, filter: &str) -> Settings {
    Settings { format, ansi: false, filter: filter.to_owned(), spans: true }
}

/// The lines that `act` logs, with spans sampled by `sampler`, if any.
fn lines(settings: &Settings, sampler: Option<Sampler>, act: impl FnOnce()) -> Vec<String> {
    let written = Written::default();
    let writer = written.clone();
    let exported = sampler.map(|sampler| {
        let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
        tracing_opentelemetry::layer().with_tracer(provider.tracer("test"))
    });
    let ids = TraceIds::default();
    let lines =
        layer(settings, exported.is_some().then(|| ids.clone()), move || writer.clone()).expect("the filter is right");
    let wanted = if exported.is_some() { LevelFilter::INFO } else { LevelFilter::OFF };
    let exported = exported.with_filter(wanted);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(exported).with(ids.layer()).with(lines), act);
    written.lines()
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn is_hex(value: &Value, digits: usize) -> bool {
    let text = value.as_str().unwrap_or_default();
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit()) && text.bytes().any(|b| b != b'0')
}

#[test]
fn a_json_line_has_its_fields_and_spans() {
    let lines = lines(&settings(Format::Json, "info"), None, || {
        let pool = info_span!("pool", name_of_pool = "ns/\"a\"", owner = tracing::field::Empty);
        pool.record("owner", 7);
        let _entered = pool.enter();
        let _claim = info_span!("claim").entered();
        info!(count = 3, ratio = f64::INFINITY, r#type = "x", ok = true, error = %"gone\nnow", "allocated {}", 1);
    });
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    let line = json(line);
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["message"], "allocated 1");
    assert_eq!(line["target"], module_path!());
    let fields = serde_json::json!({"count": 3, "ratio": "inf", "type": "x", "ok": true, "error": "gone\nnow"});
    assert_eq!(line["fields"], fields);
    let spans = serde_json::json!([{"name": "pool", "name_of_pool": "ns/\"a\"", "owner": 7}, {"name": "claim"}]);
    assert_eq!(line["spans"], spans);
    let timestamp = line["timestamp"].as_str().expect("a text");
    timestamp.parse::<jiff::Timestamp>().expect("RFC 3339");
    assert!(line.get("trace_id").is_none());
}

#[test]
fn a_span_that_nobody_wants_to_see_is_not_made() {
    let without_spans = Settings { spans: false, ..settings(Format::Json, "info") };
    let made = |settings: &Settings, sampler| {
        let mut made = false;
        let lines = lines(settings, sampler, || {
            let span = info_span!("pool");
            made = !span.is_disabled();
            span.in_scope(|| info!("allocated"));
        });
        assert_eq!(json(&lines[0])["message"], "allocated");
        made
    };
    assert!(!made(&without_spans, None));
    assert!(made(&settings(Format::Json, "info"), None));
    assert!(made(&without_spans, Some(Sampler::AlwaysOn)), "it is exported");
    let read = |verbosity, rust_log: Option<&str>| {
        let variable = |name: &str| rust_log.filter(|_| name == "RUST_LOG").map(ToOwned::to_owned);
        Settings::read(Format::Json, verbosity, &variable).spans
    };
    assert_eq!((read(0, None), read(1, None), read(0, Some("info"))), (false, true, true));
}

#[test]
fn a_text_line_is_readable() {
    let lines = lines(&settings(Format::Text, "info"), None, || {
        let _pool = info_span!("pool", pool = "ns/a").entered();
        let _claim = info_span!("claim").entered();
        info!(count = 3, "allocated");
    });
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    let expected = format!("  INFO pool{{pool=\"ns/a\"}}: claim: {}: allocated count=3", module_path!());
    assert!(line.ends_with(&expected), "{line}");
    assert!(!line.contains('\x1b'));
}

#[test]
fn lines_in_a_sampled_span_carry_its_ids() {
    let (mut outer, mut inner) = (String::new(), String::new());
    let lines = lines(&settings(Format::Json, "info"), Some(Sampler::AlwaysOn), || {
        use tracing_opentelemetry::OpenTelemetrySpanExt as _;
        let id = |span: &tracing::Span| span.context().span().span_context().span_id().to_string();
        let pool = info_span!("pool").entered();
        outer = id(&pool);
        info!("in the outer");
        let claim = info_span!("claim").entered();
        inner = id(&claim);
        info!("in the inner");
        info!(parent: &*pool, "in the outer, said explicitly");
        info!(parent: None, "in none");
    });
    let lines: Vec<_> = lines.iter().map(|line| json(line)).collect();
    let ids: Vec<_> = lines.iter().map(|line| line["span_id"].as_str()).collect();
    assert_eq!(ids, [Some(outer.as_str()), Some(inner.as_str()), Some(outer.as_str()), None]);
    assert_ne!(outer, inner);
    assert!(is_hex(&lines[0]["trace_id"], 32) && is_hex(&lines[0]["span_id"], 16), "{}", lines[0]);
    assert_eq!(lines[0]["trace_id"], lines[1]["trace_id"]);
    assert!(lines[3].get("trace_id").is_none());
}

#[test]
fn text_lines_carry_the_ids_at_their_end() {
    let lines = lines(&settings(Format::Text, "info"), Some(Sampler::AlwaysOn), || {
        let _pool = info_span!("pool").entered();
        info!("allocated");
    });
    let (_, ids) = lines[0].split_once("allocated trace_id=").expect("a trace id");
    let (trace, span) = ids.split_once(" span_id=").expect("a span id");
    assert_eq!((trace.len(), span.len()), (32, 16));
}

#[test]
fn a_span_that_the_log_filter_hides_still_gives_its_ids() {
    let lines = lines(&settings(Format::Json, "warn"), Some(Sampler::AlwaysOn), || {
        let _pool = info_span!("pool").entered();
        tracing::warn!("full");
    });
    let line = json(&lines[0]);
    assert!(is_hex(&line["trace_id"], 32), "{line}");
    assert!(line.get("spans").is_none(), "{line}");
}

#[test]
fn a_span_that_is_not_sampled_gives_no_ids() {
    let lines = lines(&settings(Format::Json, "info"), Some(Sampler::AlwaysOff), || {
        let _pool = info_span!("pool").entered();
        info!("allocated");
    });
    assert!(json(&lines[0]).get("trace_id").is_none(), "{}", lines[0]);
}

#[test]
fn verbosity_opens_this_program_only_and_rust_log_wins() {
    let filter = |verbosity, rust_log: Option<&str>| {
        let variable = |name: &str| rust_log.filter(|_| name == "RUST_LOG").map(ToOwned::to_owned);
        Settings::read(Format::Json, verbosity, &variable).filter
    };
    assert_eq!(filter(-1, None), "info,kube_client::client::builder=off,capi_ipam=INFO,manager=INFO");
    assert_eq!(filter(0, None), "info,kube_client::client::builder=off,capi_ipam=INFO,manager=INFO");
    assert_eq!(filter(1, None), "info,kube_client::client::builder=off,capi_ipam=DEBUG,manager=DEBUG");
    assert_eq!(filter(3, None), "info,kube_client::client::builder=off,capi_ipam=DEBUG,manager=DEBUG");
    assert_eq!(filter(4, None), "info,kube_client::client::builder=off,capi_ipam=TRACE,manager=TRACE");
    assert_eq!(filter(9, Some("warn,kube=debug")), "warn,kube=debug");

    let written = lines(&settings(Format::Json, &filter(2, None)), None, || {
        tracing::debug!(target: "capi_ipam::pool", "ours");
        tracing::debug!(target: "kube", "theirs");
        tracing::trace!(target: "capi_ipam::pool", "too much");
    });
    assert_eq!(written.len(), 1, "{written:?}");
}

#[test]
fn a_filter_that_cannot_be_read_is_an_error() {
    let result = layer::<Registry, _>(&settings(Format::Json, "capi_ipam=loud"), None, std::io::stderr);
    assert!(result.is_err());
}
