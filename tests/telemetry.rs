//! Logs and traces as another process sees them: stderr, and a real OTLP/gRPC receiver.
//!
//! The subscriber and the environment belong to a whole process. So each test starts this very program again, with the
//! variables that it is about, and lets it run one of the ignored tests at the end of this file.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use capi_ipam::telemetry;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::Value;
use tokio::time::Instant;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};
use tracing::{Instrument as _, info, info_span};

/// A start, an export and a shutdown, all on a machine that does other things as well.
const CHILD_LIMIT: Duration = Duration::from_mins(1);

/// The limit of the guard (3 s) and some time to start and end a process.
const DEAD_COLLECTOR_LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().expect("no test panicked with the lock").push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Listens on a free port until the test ends.
    fn start() -> (Self, SocketAddr) {
        Self::start_on(Server::builder())
    }

    fn start_on(mut server: Server) -> (Self, SocketAddr) {
        let collector = Self::default();
        let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let address = incoming.local_addr().expect("it is bound");
        let service = TraceServiceServer::new(collector.clone());
        tokio::spawn(server.add_service(service).serve_with_incoming(incoming));
        (collector, address)
    }

    fn resource(&self) -> Vec<(String, String)> {
        let requests = self.0.lock().expect("no test panicked with the lock");
        let resource = requests.iter().flat_map(|request| &request.resource_spans).find_map(|r| r.resource.clone());
        resource.expect("something was exported").attributes.iter().map(text).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock().expect("no test panicked with the lock");
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }

    fn span(&self, name: &str) -> Span {
        let spans = self.spans();
        let found = spans.iter().find(|span| span.name == name);
        found.unwrap_or_else(|| panic!("no span {name} in {spans:?}")).clone()
    }
}

fn text(attribute: &KeyValue) -> (String, String) {
    let value = attribute.value.as_ref().and_then(|value| value.value.clone());
    let value = match value {
        Some(any_value::Value::StringValue(text)) => text,
        other => format!("{other:?}"),
    };
    (attribute.key.clone(), value)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What a child did.
struct Outcome {
    succeeded: bool,
    stderr: String,
    took: Duration,
}

impl Outcome {
    fn json_line(&self, message: &str) -> Value {
        let lines = self.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .into_iter()
            .find(|line| line["message"] == message)
            .unwrap_or_else(|| panic!("{message}: {}", self.stderr))
    }
}

async fn child(act: &str, environment: &[(&str, &str)]) -> Outcome {
    let started = Instant::now();
    let this_program = std::env::current_exe().expect("it runs");
    let inherited = std::env::vars().map(|(name, _)| name);
    let mut command = tokio::process::Command::new(this_program);
    for name in inherited.filter(|name| name.starts_with("OTEL_") || name.starts_with("POD_") || name == "RUST_LOG") {
        command.env_remove(name);
    }
    let child = command
        .args([act, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("this program can be started");
    let output = tokio::time::timeout(CHILD_LIMIT, child.wait_with_output()).await;
    let output = output.expect("the child ends").expect("its output can be read");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("running 1 test"), "{act} is no test of this program: {stdout}");
    Outcome {
        succeeded: output.status.success(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: started.elapsed(),
    }
}

#[tokio::test]
async fn spans_arrive_with_their_resource_family_and_attributes() {
    let (collector, address) = Collector::start();
    let outcome = child(
        "child_serves_a_claim",
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}")),
            ("OTEL_RESOURCE_ATTRIBUTES", "k8s.node.name=node-1,k8s.pod.name=from-the-attributes"),
            ("POD_NAME", "manager-0"),
            ("POD_NAMESPACE", "capi"),
            ("POD_UID", "1234"),
        ],
    )
    .await;
    assert!(outcome.succeeded, "{}", outcome.stderr);

    let resource = collector.resource();
    for (name, value) in [
        ("service.name", "capi-ipam-in-cluster"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", "1234"),
        ("k8s.pod.name", "from-the-attributes"),
        ("k8s.pod.uid", "1234"),
        ("k8s.namespace.name", "capi"),
        ("k8s.node.name", "node-1"),
    ] {
        assert!(resource.contains(&(name.to_owned(), value.to_owned())), "{name}={value} in {resource:?}");
    }

    let (pool, claim) = (collector.span("pool"), collector.span("claim"));
    assert_eq!(claim.parent_span_id, pool.span_id);
    assert_eq!(claim.trace_id, pool.trace_id);
    assert!(pool.parent_span_id.is_empty());
    let attributes: Vec<_> = pool.attributes.iter().map(text).collect();
    assert!(attributes.contains(&("pool.name".to_owned(), "ns/a".to_owned())), "{attributes:?}");
    let names: Vec<_> = collector.spans().into_iter().map(|span| span.name).collect();
    assert_eq!(names.len(), 2, "nothing of the exporter's own: {names:?}");

    let line = outcome.json_line("allocated");
    assert_eq!(line["trace_id"], hex(&pool.trace_id));
    assert_eq!(line["span_id"], hex(&claim.span_id));
    assert_eq!(line["spans"][0]["pool.name"], "ns/a");
}

#[tokio::test]
async fn the_service_can_be_named() {
    let (collector, address) = Collector::start();
    let endpoint = format!("http://{address}");
    let environment = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint.as_str()), ("OTEL_SERVICE_NAME", "ours")];
    assert!(child("child_serves_a_claim", &environment).await.succeeded);
    assert!(collector.resource().contains(&("service.name".to_owned(), "ours".to_owned())));
}

#[tokio::test]
async fn a_collector_with_tls_is_trusted_by_the_authority_that_was_named() {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let file = std::env::temp_dir().join(format!("capi-ipam-telemetry-{}.pem", std::process::id()));
    std::fs::write(&file, pair.cert.pem()).expect("a temporary file");
    let identity = Identity::from_pem(pair.cert.pem(), pair.signing_key.serialize_pem());
    let server = Server::builder().tls_config(ServerTlsConfig::new().identity(identity)).expect("a valid pair");
    let (collector, address) = Collector::start_on(server);
    let endpoint = format!("https://localhost:{}", address.port());
    let trusting = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", file.to_str().expect("UTF-8")),
    ];
    let outcome = child("child_serves_a_claim", &trusting).await;
    std::fs::remove_file(&file).expect("it is there");
    assert!(outcome.succeeded, "{}", outcome.stderr);
    assert_eq!(collector.spans().len(), 2, "{}", outcome.stderr);
}

#[tokio::test]
async fn a_guard_that_is_only_dropped_flushes_too() {
    let (collector, address) = Collector::start();
    let endpoint = format!("http://{address}");
    let outcome = child("child_drops_its_guard", &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]).await;
    assert!(outcome.succeeded, "{}", outcome.stderr);
    assert_eq!(collector.span("pool").name, "pool");
}

#[tokio::test]
async fn spans_stay_at_home_when_traces_are_off() {
    let (collector, address) = Collector::start();
    let endpoint = format!("http://{address}");
    for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
        let outcome = child("child_serves_a_claim", &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), off]).await;
        assert!(outcome.succeeded, "{}", outcome.stderr);
        assert!(outcome.json_line("allocated").get("trace_id").is_none(), "{}", outcome.stderr);
    }
    assert_eq!(collector.spans(), Vec::new());
}

#[tokio::test]
async fn spans_that_are_not_sampled_leave_no_trace() {
    let (collector, address) = Collector::start();
    let endpoint = format!("http://{address}");
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_TRACES_SAMPLER", "always_off")];
    let outcome = child("child_serves_a_claim", &environment).await;
    assert!(outcome.json_line("allocated").get("trace_id").is_none(), "{}", outcome.stderr);
    assert_eq!(collector.spans(), Vec::new());
}

#[tokio::test]
async fn a_dead_collector_neither_blocks_nor_crashes() {
    // Refused connections, and a listener that accepts and then never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent = silent.local_addr().map(|address| (silent, address)).expect("it is bound");
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let refused = closed.local_addr().expect("it is bound");
    drop(closed);
    for address in [refused, silent.1] {
        let outcome =
            child("child_serves_a_claim", &[("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"))]).await;
        assert!(outcome.succeeded, "{}", outcome.stderr);
        assert!(outcome.took < DEAD_COLLECTOR_LIMIT, "{:?}", outcome.took);
        let line = outcome.json_line("allocated");
        assert_eq!(line["trace_id"].as_str().map(str::len), Some(32), "{line}");
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_one_line_before_anything_starts() {
    let outcome = child(
        "child_serves_a_claim",
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")],
    )
    .await;
    assert!(!outcome.succeeded);
    let message = "refused: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf: only grpc is supported\n";
    assert!(outcome.stderr.contains(message), "{}", outcome.stderr);

    let outcome = child("child_serves_a_claim", &[("RUST_LOG", "capi_ipam=loud")]).await;
    assert!(!outcome.succeeded);
    assert!(outcome.stderr.contains("refused: RUST_LOG: "), "{}", outcome.stderr);
}

/// What the composition root does, with a claim in the middle.
async fn serve_a_claim() -> telemetry::Guard {
    let guard = telemetry::Options::from_environment(telemetry::logs::Format::Json, 0)
        .and_then(|options| telemetry::init(&options))
        .unwrap_or_else(|error| panic!("refused: {error}\n"));
    let started = Instant::now();
    async { async { info!("allocated") }.instrument(info_span!("claim")).await }
        .instrument(info_span!("pool", pool.name = "ns/a"))
        .await;
    assert!(started.elapsed() < Duration::from_secs(1), "work waits for the collector");
    guard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the other tests, in a process of its own"]
async fn child_serves_a_claim() {
    let guard = serve_a_claim().await;
    let started = Instant::now();
    guard.shutdown().await;
    assert!(started.elapsed() < Duration::from_secs(4), "the end waits for the collector");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the other tests, in a process of its own"]
async fn child_drops_its_guard() {
    drop(serve_a_claim().await);
}
