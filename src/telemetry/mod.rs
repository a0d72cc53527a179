//! Logs, traces, metrics and the endpoints that show them.
//!
//! [`init`] installs the process-wide subscriber: log lines on stderr, and an exporter of spans where `OTEL_*` asks for
//! one. Everything else is a value that the composition root passes on: [`metrics::Metrics`], [`admin::Health`].

pub mod admin;
pub mod logs;
pub mod metrics;
pub mod traces;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

pub use traces::Guard;

/// What [`init`] installs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Log lines.
    pub logs: logs::Settings,
    /// Where spans go; `None`: nowhere.
    pub traces: Option<traces::Settings>,
}

/// Why logs and traces cannot start; each message is one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `RUST_LOG` cannot be read.
    #[error("RUST_LOG: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// `OTEL_*` asks for something that cannot be done.
    #[error(transparent)]
    Traces(#[from] traces::Error),
    /// There is a subscriber already.
    #[error("cannot install the log: {0}")]
    Install(#[from] TryInitError),
}

impl Options {
    /// Reads `RUST_LOG`, `NO_COLOR`, `OTEL_*` and `POD_*` from the environment.
    pub fn from_environment(format: logs::Format, verbosity: i32) -> Result<Self, Error> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Ok(Self {
            logs: logs::Settings::read(format, verbosity, &variable),
            traces: traces::Settings::read(verbosity, &variable)?,
        })
    }
}

/// Installs the subscriber of the process; to be called once, inside the tokio runtime (the exporter lives on it).
///
/// Keep the guard until the end: what it flushes is lost otherwise.
pub fn init(options: &Options) -> Result<Guard, Error> {
    let provider = options.traces.as_ref().map(traces::provider).transpose()?;
    let guard = Guard::new(provider);
    let ids = logs::TraceIds::default();
    let shown = options.traces.is_some().then(|| ids.clone());
    tracing_subscriber::registry()
        .with(guard.layer(options.traces.as_ref()))
        // Not an `Option`: as a layer that one does not learn its dispatcher.
        .with(ids.layer())
        .with(logs::layer(&options.logs, shown, std::io::stderr)?)
        .try_init()?;
    Ok(guard)
}
