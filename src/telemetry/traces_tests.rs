//! What the environment's `OTEL_*` variables mean.

use super::*;

/// The settings for `NAME=value` lines.
fn read(environment: &[&str]) -> Result<Option<Settings>, Error> {
    Settings::read(0, &|name| {
        let line = environment.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.filter(|value| !value.is_empty()).map(ToOwned::to_owned)
    })
}

fn settings(environment: &[&str]) -> Settings {
    read(environment).expect("the environment is right").expect("there is an endpoint")
}

#[test]
fn without_an_endpoint_there_is_no_exporter() {
    for environment in [
        &[][..],
        &["OTEL_EXPORTER_OTLP_ENDPOINT="],
        &["OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"],
        &["OTEL_TRACES_EXPORTER=zipkin"],
    ] {
        assert_eq!(read(environment).expect("nothing to get wrong"), None, "{environment:?}");
    }
}

#[test]
fn traces_can_be_turned_off_although_there_is_an_endpoint() {
    for off in ["OTEL_SDK_DISABLED=true", "OTEL_SDK_DISABLED=TRUE", "OTEL_TRACES_EXPORTER=none"] {
        assert_eq!(read(&["OTEL_EXPORTER_OTLP_ENDPOINT=http://a:4317", off]).expect("valid"), None, "{off}");
    }
    let on = ["OTEL_EXPORTER_OTLP_ENDPOINT=http://a:4317", "OTEL_SDK_DISABLED=1", "OTEL_TRACES_EXPORTER=otlp"];
    assert_eq!(settings(&on).endpoint, "http://a:4317", "only the word true turns it off");
}

#[test]
fn the_endpoint_of_traces_wins() {
    let both = ["OTEL_EXPORTER_OTLP_ENDPOINT=http://a:4317", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://b:4317"];
    assert_eq!(settings(&both).endpoint, "http://b:4317");
}

#[test]
fn an_endpoint_without_scheme_is_secure_unless_marked() {
    assert_eq!(settings(&["OTEL_EXPORTER_OTLP_ENDPOINT=a:4317"]).endpoint, "https://a:4317");
    let marked = ["OTEL_EXPORTER_OTLP_ENDPOINT=a:4317", "OTEL_EXPORTER_OTLP_INSECURE=true"];
    assert_eq!(settings(&marked).endpoint, "http://a:4317");
    let overruled = [marked[0], marked[1], "OTEL_EXPORTER_OTLP_TRACES_INSECURE=false"];
    assert_eq!(settings(&overruled).endpoint, "https://a:4317");
}

#[test]
fn what_is_not_built_in_is_refused_by_name() {
    for (line, message) in [
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf: only grpc is supported",
        ),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=x", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=x: only grpc is supported"),
        ("OTEL_TRACES_EXPORTER=zipkin", "OTEL_TRACES_EXPORTER=zipkin: only otlp and none are supported"),
    ] {
        let error = read(&["OTEL_EXPORTER_OTLP_ENDPOINT=http://a:4317", line]).expect_err(line);
        assert_eq!(error.to_string(), message);
    }
    settings(&["OTEL_EXPORTER_OTLP_ENDPOINT=http://a:4317", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"]);
}

#[test]
fn the_pod_is_in_the_resource() {
    let resource = settings(&[
        "OTEL_EXPORTER_OTLP_ENDPOINT=http://a:4317",
        "POD_NAME=manager-0",
        "POD_NAMESPACE=capi",
        "POD_UID=1234",
    ])
    .resource;
    let expected = [
        ("service.name", "capi-ipam-in-cluster"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", "1234"),
        ("k8s.pod.name", "manager-0"),
        ("k8s.pod.uid", "1234"),
        ("k8s.namespace.name", "capi"),
    ];
    assert_eq!(resource, expected.map(|(name, value)| (name, value.to_owned())));
}

#[test]
fn outside_a_pod_every_process_has_an_id_of_its_own() {
    let instance = || {
        let resource = settings(&["OTEL_EXPORTER_OTLP_ENDPOINT=http://a:4317"]).resource;
        resource.into_iter().find(|(name, _)| *name == "service.instance.id").expect("always there").1
    };
    assert_ne!(instance(), instance());
}

#[test]
fn propagation_can_be_turned_off() {
    let endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://a:4317";
    assert!(settings(&[endpoint]).propagate);
    assert!(settings(&[endpoint, "OTEL_PROPAGATORS=b3, tracecontext"]).propagate);
    assert!(!settings(&[endpoint, "OTEL_PROPAGATORS=none"]).propagate);
}

#[test]
fn an_exporter_outside_tokio_is_an_error_and_not_a_panic() {
    let error = provider(&settings(&["OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1"])).expect_err("no runtime");
    assert!(matches!(error, Error::NoRuntime));
}

#[tokio::test]
async fn unusable_endpoints_and_files_are_one_line_errors() {
    for (environment, part) in [
        (&["OTEL_EXPORTER_OTLP_ENDPOINT=http://a b"][..], "cannot export traces to http://a b"),
        (
            &["OTEL_EXPORTER_OTLP_ENDPOINT=https://a:1", "OTEL_EXPORTER_OTLP_CERTIFICATE=/nowhere/ca.pem"],
            "cannot read the file /nowhere/ca.pem that OTEL_EXPORTER_OTLP_CERTIFICATE names",
        ),
        (
            &["OTEL_EXPORTER_OTLP_ENDPOINT=https://a:1", "OTEL_EXPORTER_OTLP_CLIENT_KEY=/nowhere/key.pem"],
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY need each other",
        ),
    ] {
        let error = provider(&settings(environment)).expect_err(part);
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(error.to_string().starts_with(part) && !cause.contains('\n'), "{error}: {cause}");
    }
}
