//! Log lines: one line per event, as text or JSON, with the ids of the trace that the event belongs to.

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::{Arc, OnceLock};

use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use serde_json::{Map, Value};
use tracing::dispatcher::WeakDispatch;
use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, filter_fn};
use tracing_subscriber::fmt::format::{DefaultFields, JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One readable line each.
    Text,
    /// One JSON object each.
    Json,
}

/// Which lines are written, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How they look; [`Format::Auto`] is decided.
    pub format: Format,
    /// Colours, in text only.
    pub ansi: bool,
    /// Directives in the syntax of `RUST_LOG`.
    pub filter: String,
    /// Whether lines show the spans around them although nobody exports these. There is one for each request, and it is
    /// not even made if nobody wants to see it.
    pub spans: bool,
}

impl Settings {
    /// `RUST_LOG` wins over the verbosity: 0 is info, 1 to 3 debug and more trace, for this program only.
    pub(super) fn read(format: Format, verbosity: i32, variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let format = match format {
            Format::Auto if terminal => Format::Text,
            Format::Auto => Format::Json,
            chosen => chosen,
        };
        let ours = level(verbosity);
        Self {
            format,
            ansi: terminal && variable("NO_COLOR").is_none(),
            // The program's own modules are in the library and in the binary, which is called manager.
            filter: variable("RUST_LOG")
                .unwrap_or_else(|| format!("info,kube_client::client::builder=off,capi_ipam={ours},manager={ours}")),
            spans: verbosity > 0 || variable("RUST_LOG").is_some(),
        }
    }
}

/// The level of this program's own lines and spans.
pub(super) fn level(verbosity: i32) -> Level {
    match verbosity {
        ..=0 => Level::INFO,
        1..=3 => Level::DEBUG,
        4.. => Level::TRACE,
    }
}

/// The layer that writes lines; `ids` if spans are exported.
pub(super) fn layer<S, W>(
    settings: &Settings,
    ids: Option<TraceIds>,
    writer: W,
) -> Result<Box<dyn Layer<S> + Send + Sync>, tracing_subscriber::filter::ParseError>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let spans = settings.spans || ids.is_some();
    let filter = EnvFilter::builder().parse(&settings.filter)?.and(filter_fn(move |it| spans || it.is_event()));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    Ok(match settings.format {
        Format::Json => lines.fmt_fields(JsonFields::new()).event_format(JsonLines { ids }).with_filter(filter).boxed(),
        Format::Text | Format::Auto => lines
            .fmt_fields(DefaultFields::new())
            .with_ansi(settings.ansi)
            .event_format(TextLines { ids })
            .with_filter(filter)
            .boxed(),
    })
}

/// Finds the exported span that an event belongs to.
///
/// A layer and a part of the formatter at once: a formatter is never told its dispatcher, a layer is. The dispatcher is
/// asked for the current span, because the formatter's own view lacks the spans that the log filter turns away.
#[derive(Clone, Default)]
pub(super) struct TraceIds(Arc<OnceLock<WeakDispatch>>);

impl<S: Subscriber> Layer<S> for TraceIds {
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        // Set once: a layer belongs to one subscriber.
        let _ = self.0.set(dispatch.downgrade());
    }
}

impl TraceIds {
    /// The layer. It looks at no span itself, so that one which nobody else wants is not made.
    pub(super) fn layer<S>(self) -> impl Layer<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        self.with_filter(LevelFilter::OFF)
    }

    /// The innermost span around the event that is sampled.
    fn of(&self, event: &Event<'_>) -> Option<SpanContext> {
        let dispatch = self.0.get()?.upgrade()?;
        let innermost = match event.parent() {
            Some(parent) => parent.clone(),
            None if event.is_contextual() => dispatch.current_span().id()?.clone(),
            None => return None,
        };
        let registry = dispatch.downcast_ref::<Registry>()?;
        registry.span(&innermost)?.scope().find_map(|span| {
            let context = tracing_opentelemetry::get_otel_context(&span.id(), &dispatch)?;
            let context = context.span().span_context().clone();
            (context.is_valid() && context.is_sampled()).then_some(context)
        })
    }
}

/// `{"timestamp", "level", "target", "message", "fields", "spans", "trace_id", "span_id"}`, outermost span first.
struct JsonLines {
    ids: Option<TraceIds>,
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut line = Map::new();
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        line.insert("timestamp".to_owned(), timestamp.into());
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        let target = fields.log_target.take().unwrap_or_else(|| event.metadata().target().to_owned());
        line.insert("target".to_owned(), target.into());
        line.extend(fields.message.take().map(|message| ("message".to_owned(), message)));
        if !fields.others.is_empty() {
            line.insert("fields".to_owned(), Value::Object(fields.others));
        }
        let spans: Vec<Value> = ctx
            .event_scope()
            .into_iter()
            .flat_map(tracing_subscriber::registry::Scope::from_root)
            .map(|span| {
                let extensions = span.extensions();
                let fields = extensions.get::<FormattedFields<N>>().map_or("", |fields| fields.as_str());
                // The fields of a span are JSON already, of our own making; a broken text is still worth its name.
                let mut object: Map<String, Value> = serde_json::from_str(fields).unwrap_or_default();
                object.insert("name".to_owned(), span.name().into());
                Value::Object(object)
            })
            .collect();
        if !spans.is_empty() {
            line.insert("spans".to_owned(), spans.into());
        }
        if let Some(context) = self.ids.as_ref().and_then(|ids| ids.of(event)) {
            line.insert("trace_id".to_owned(), context.trace_id().to_string().into());
            line.insert("span_id".to_owned(), context.span_id().to_string().into());
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// `<time> <level> <spans>: <target>: <message> <fields> trace_id=… span_id=…`
struct TextLines {
    ids: Option<TraceIds>,
}

impl<S, N> FormatEvent<S, N> for TextLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = *event.metadata().level();
        SystemTime.format_time(&mut writer)?;
        if writer.has_ansi_escapes() {
            write!(writer, " \x1b[{}m{level:>5}\x1b[0m ", colour(level))?;
        } else {
            write!(writer, " {level:>5} ")?;
        }
        for span in ctx.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
            write!(writer, "{}", span.name())?;
            match span.extensions().get::<FormattedFields<N>>() {
                Some(fields) if !fields.is_empty() => write!(writer, "{{{fields}}}: ")?,
                _ => write!(writer, ": ")?,
            }
        }
        write!(writer, "{}: ", event.metadata().target())?;
        ctx.field_format().format_fields(writer.by_ref(), event)?;
        if let Some(context) = self.ids.as_ref().and_then(|ids| ids.of(event)) {
            write!(writer, " trace_id={} span_id={}", context.trace_id(), context.span_id())?;
        }
        writeln!(writer)
    }
}

/// SGR codes: red, yellow, green, blue, magenta.
fn colour(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    }
}

/// The fields of an event as JSON.
#[derive(Default)]
struct Fields {
    message: Option<Value>,
    /// The true target of a line that came through the `log` crate.
    log_target: Option<String>,
    others: Map<String, Value>,
}

impl Fields {
    fn insert(&mut self, field: &Field, value: Value) {
        match field.name() {
            "message" => self.message = Some(value),
            "log.target" => self.log_target = value.as_str().map(ToOwned::to_owned),
            name if name.starts_with("log.") => {}
            // A field named like a keyword of Rust: `r#type = …`.
            name => {
                self.others.insert(name.strip_prefix("r#").unwrap_or(name).to_owned(), value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinity: text is better than null.
        let number = serde_json::Number::from_f64(value).map(Value::Number);
        self.insert(field, number.unwrap_or_else(|| value.to_string().into()));
    }
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
