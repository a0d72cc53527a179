//! Spans to an OpenTelemetry collector over OTLP/gRPC, and only where the environment names one.
//!
//! The SDK reads most `OTEL_*` variables itself (headers, timeout, compression, sampler, batches, limits). Read here is
//! what it ignores: `OTEL_SDK_DISABLED`, `OTEL_TRACES_EXPORTER`, `OTEL_PROPAGATORS` and the certificate files, and what
//! it would get wrong in silence: a protocol that is not compiled in, and TLS without any trusted root.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::SdkTracerProvider;
use opentelemetry_semantic_conventions::resource;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::registry::LookupSpan;

use super::logs;

/// `service.name` where nobody says otherwise.
const SERVICE_NAME: &str = "capi-ipam-in-cluster";

/// Name of the instrumentation scope.
const SCOPE: &str = "capi_ipam";

/// How long the end of the process waits for the last spans: a part of the 10 s that a shutdown may take.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);

/// The exporter's own libraries: their spans would be exported by requests that make further spans.
const EXPORTERS_OWN: [&str; 8] =
    ["h2", "hyper", "hyper_util", "tonic", "tower", "opentelemetry", "opentelemetry_sdk", "opentelemetry_otlp"];

/// Where spans go and what they say about this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The collector, with its scheme.
    pub endpoint: String,
    /// PEM files for a collector with TLS.
    pub tls: TlsFiles,
    /// Resource attributes that hold unless `OTEL_RESOURCE_ATTRIBUTES` or `OTEL_SERVICE_NAME` say otherwise.
    pub resource: Vec<(&'static str, String)>,
    /// `OTEL_SERVICE_NAME`.
    pub service_name: Option<String>,
    /// Whether outgoing requests carry a W3C `traceparent`.
    pub propagate: bool,
    /// `--v`: also the detail of spans.
    pub verbosity: i32,
}

/// PEM files: the collector's authority, and what we show to the collector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// `OTEL_EXPORTER_OTLP_CERTIFICATE`; without it the system's roots.
    pub authority: Option<String>,
    /// `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`.
    pub client_certificate: Option<String>,
    /// `OTEL_EXPORTER_OTLP_CLIENT_KEY`.
    pub client_key: Option<String>,
}

/// Why spans cannot be exported; each message is one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An exporter that is not built in.
    #[error("OTEL_TRACES_EXPORTER={0}: only otlp and none are supported")]
    Exporter(String),
    /// A protocol that is not built in.
    #[error("{variable}={value}: only grpc is supported")]
    Protocol {
        /// Where it was set.
        variable: &'static str,
        /// What it was set to.
        value: String,
    },
    /// A certificate or key that cannot be read.
    #[error("cannot read the file {path} that {variable} names")]
    File {
        /// Where it was named.
        variable: &'static str,
        /// The file.
        path: String,
        /// What happened.
        source: std::io::Error,
    },
    /// One of the pair without the other.
    #[error("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY need each other")]
    HalfIdentity,
    /// Called outside tokio.
    #[error("the exporter of traces needs a tokio runtime")]
    NoRuntime,
    /// The endpoint or another setting is not usable.
    #[error("cannot export traces to {endpoint}")]
    Build {
        /// The collector.
        endpoint: String,
        /// What happened.
        source: ExporterBuildError,
    },
}

impl Settings {
    /// What the environment asks for; empty variables count as unset. `None`: no endpoint, or turned off.
    pub(super) fn read(verbosity: i32, variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, Error> {
        let endpoint =
            variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"));
        let disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.trim().eq_ignore_ascii_case("true"));
        let Some(endpoint) = endpoint.filter(|_| !disabled) else { return Ok(None) };
        match variable("OTEL_TRACES_EXPORTER").as_deref().map(str::trim) {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            Some(other) => return Err(Error::Exporter(other.to_owned())),
        }
        let protocol = first_set(variable, ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]);
        if let Some((variable, value)) = protocol.filter(|(_, value)| value.trim() != "grpc") {
            return Err(Error::Protocol { variable, value });
        }
        let insecure = first_set(variable, ["OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"])
            .is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"));
        let propagators = variable("OTEL_PROPAGATORS").unwrap_or_else(|| "tracecontext,baggage".to_owned());
        Ok(Some(Self {
            endpoint: with_scheme(endpoint.trim(), insecure),
            tls: TlsFiles::read(variable),
            resource: resource_attributes(variable),
            service_name: variable("OTEL_SERVICE_NAME"),
            propagate: propagators.split(',').any(|name| name.trim() == "tracecontext"),
            verbosity,
        }))
    }
}

impl TlsFiles {
    fn read(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let file = |of_traces, of_all| first_set(variable, [of_traces, of_all]).map(|(_, path)| path);
        Self {
            authority: file("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"),
            client_certificate: file(
                "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
            ),
            client_key: file("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY"),
        }
    }

    fn client_config(&self) -> Result<ClientTlsConfig, Error> {
        let config = match &self.authority {
            Some(path) => ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(pem("OTEL_EXPORTER_OTLP_CERTIFICATE", path)?)),
            // A config without roots trusts nobody.
            None => ClientTlsConfig::new().with_enabled_roots(),
        };
        match (&self.client_certificate, &self.client_key) {
            (Some(certificate), Some(key)) => Ok(config.identity(Identity::from_pem(
                pem("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", certificate)?,
                pem("OTEL_EXPORTER_OTLP_CLIENT_KEY", key)?,
            ))),
            (None, None) => Ok(config),
            _ => Err(Error::HalfIdentity),
        }
    }
}

fn pem(variable: &'static str, path: &str) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File { variable, path: path.to_owned(), source })
}

fn first_set(variable: &dyn Fn(&str) -> Option<String>, names: [&'static str; 2]) -> Option<(&'static str, String)> {
    names.into_iter().find_map(|name| Some((name, variable(name)?)))
}

/// An endpoint without a scheme is HTTPS unless marked insecure, as the OTLP specification has it.
fn with_scheme(endpoint: &str, insecure: bool) -> String {
    match (endpoint.contains("://"), insecure) {
        (true, _) => endpoint.to_owned(),
        (false, true) => format!("http://{endpoint}"),
        (false, false) => format!("https://{endpoint}"),
    }
}

fn resource_attributes(variable: &dyn Fn(&str) -> Option<String>) -> Vec<(&'static str, String)> {
    let pod_uid = variable("POD_UID");
    // Outside a pod nothing names this process: any id that no other has will do.
    let instance = pod_uid.clone().unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
    [
        (resource::SERVICE_NAME, Some(SERVICE_NAME.to_owned())),
        (resource::SERVICE_VERSION, Some(env!("CARGO_PKG_VERSION").to_owned())),
        (resource::SERVICE_INSTANCE_ID, Some(instance)),
        (resource::K8S_POD_NAME, variable("POD_NAME")),
        (resource::K8S_POD_UID, pod_uid),
        (resource::K8S_NAMESPACE_NAME, variable("POD_NAMESPACE")),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

/// Connects lazily: a collector that is down costs spans, never a start.
pub(super) fn provider(settings: &Settings) -> Result<SdkTracerProvider, Error> {
    tokio::runtime::Handle::try_current().map_err(|_| Error::NoRuntime)?;
    let mut builder = SpanExporter::builder().with_tonic().with_endpoint(&settings.endpoint);
    if settings.endpoint.to_ascii_lowercase().starts_with("https://") {
        builder = builder.with_tls_config(settings.tls.client_config()?);
    }
    let exporter = builder.build().map_err(|source| Error::Build { endpoint: settings.endpoint.clone(), source })?;
    if settings.propagate {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    }
    Ok(SdkTracerProvider::builder().with_resource(described(settings)).with_batch_exporter(exporter).build())
}

/// The environment wins over what we know ourselves.
fn described(settings: &Settings) -> Resource {
    let ours = settings.resource.iter().map(|(name, value)| KeyValue::new(*name, value.clone()));
    let named = settings.service_name.iter().map(|name| KeyValue::new(resource::SERVICE_NAME, name.clone()));
    Resource::builder_empty()
        .with_attributes(ours)
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())])
        .with_attributes(named)
        .build()
}

/// Holds the exporter; the end of it flushes what was not sent yet, within 3 s.
#[derive(Debug)]
#[must_use = "spans that were not sent yet are lost without it"]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

impl Guard {
    pub(super) fn new(provider: Option<SdkTracerProvider>) -> Self {
        Self { provider }
    }

    /// The layer that exports spans. Without an exporter it turns every span away: a layer that is `None` wants all.
    pub(super) fn layer<S>(&self, settings: Option<&Settings>) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let wanted = settings.map_or_else(Targets::new, |settings| exported(settings.verbosity));
        let layer = self.provider.as_ref().map(|provider| {
            let layer = tracing_opentelemetry::layer().with_threads(false).with_tracked_inactivity(false);
            layer.with_tracer(provider.tracer(SCOPE))
        });
        layer.with_filter(wanted)
    }

    /// Flushes and stops the exporter without blocking the runtime that the exporter needs for it.
    pub async fn shutdown(mut self) {
        if let Some(provider) = self.provider.take() {
            // An error was logged by the SDK; the process ends either way.
            let _ = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(SHUTDOWN_LIMIT)).await;
        }
    }
}

impl Drop for Guard {
    /// For the ways out that do not reach [`shutdown`](Self::shutdown); blocks up to 3 s.
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take() {
            let _ = provider.shutdown_with_timeout(SHUTDOWN_LIMIT);
        }
    }
}

fn exported(verbosity: i32) -> Targets {
    let ours = LevelFilter::from_level(logs::level(verbosity));
    Targets::new()
        .with_default(LevelFilter::INFO)
        .with_targets([("capi_ipam", ours), ("manager", ours)])
        .with_targets(EXPORTERS_OWN.map(|target| (target, LevelFilter::OFF)))
}

#[cfg(test)]
#[path = "traces_tests.rs"]
mod tests;
