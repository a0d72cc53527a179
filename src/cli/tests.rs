//! Whole command lines: what Cluster API's manifests and operator pass, and what people mistype.

use std::time::Duration;

use super::*;
use crate::telemetry::logs::Format;

fn parsed(line: &str) -> Result<Command, Usage> {
    let args = std::iter::once("manager").chain(line.split_whitespace()).map(OsString::from);
    parse_with(args, &|_| None)
}

fn options(line: &str) -> Options {
    match parsed(line) {
        Ok(Command::Manager(options)) => *options,
        other => panic!("{line}: {other:?}"),
    }
}

fn wrong(line: &str) -> String {
    match parsed(line) {
        Err(Usage::Wrong(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}

fn address(text: &str) -> std::net::SocketAddr {
    text.parse().expect("an address of the test")
}

#[test]
fn without_flags_the_defaults_are_the_originals() {
    let options = options("");
    assert_eq!(options.identity, Identity::default());
    assert_eq!(options.health_address, Some(address("[::]:8081")));
    assert_eq!(options.diagnostics.address, Some(address("[::]:8443")));
    assert_eq!((options.diagnostics.insecure, options.diagnostics.metrics_address), (false, None));
    assert!(!options.election.enabled);
    assert_eq!(options.election.lease_name, "7bb7acb4.ipam.cluster.x-k8s.io");
    assert_eq!(options.election.lease_duration, Duration::from_secs(15));
    assert_eq!(options.election.renew_deadline, Duration::from_secs(10));
    assert_eq!(options.election.retry_period, Duration::from_secs(2));
    let webhooks = options.webhooks.expect("webhooks are on");
    assert_eq!(webhooks.address, address("[::]:9443"));
    assert_eq!(webhooks.cert_dir, "/tmp/k8s-webhook-server/serving-certs");
    assert_eq!((webhooks.cert_name.as_str(), webhooks.key_name.as_str()), ("tls.crt", "tls.key"));
    assert_eq!((webhooks.service_name, webhooks.certificate_lifetime), (None, Duration::from_hours(90 * 24)));
    assert_eq!(options.tls, Tls { min_version: TlsVersion::Tls12, cipher_suites: Vec::new() });
    assert_eq!((options.namespace, options.watch_filter, options.kubeconfig), (None, None, None));
    assert_eq!((options.shards, options.verbosity, options.log_format), (64, 0, Format::Auto));
    assert_eq!(options.member_lease_duration, Duration::from_secs(5));
    assert_eq!(options.orphan_grace_period, Some(Duration::from_mins(10)));
    assert_eq!(options.adoption_grace_period, Duration::from_mins(1));
    assert_eq!(options.lock_delay, Duration::from_mins(20));
    assert_eq!(options.overlap, Overlap::Warn);
}

#[test]
fn every_flag_takes_its_value_with_and_without_an_equals_sign() {
    let line = "--kubeconfig k --namespace n --watch-filter w --leader-election-id l --leader-election-namespace e \
        --leader-elect-lease-duration 1m --leader-elect-renew-deadline 40s --leader-elect-retry-period 5s \
        --health-probe-bind-address 127.0.0.1:1 --webhook-port 2 --webhook-host ::1 --webhook-cert-dir d \
        --webhook-cert-name c --webhook-key-name y --diagnostics-address 127.0.0.1:3 --metrics-bind-addr 127.0.0.1:4 \
        --profiler-address p --tls-min-version VersionTLS13 --tls-cipher-suites A,B --max-concurrent-reconciles 9 \
        --sync-period 10m --v 4 --feature-gates A=true,B=false --kube-api-qps 20.5 --kube-api-burst 30 --shards 8 \
        --member-lease-duration 6s --orphan-grace-period 0 --adoption-grace-period 1s --lock-delay 1h --overlap deny \
        --log-format json --leader-elect=true --insecure-diagnostics=true --webhook-service-name s \
        --webhook-certificate-lifetime 24h";
    let spaced = options(line);
    let (mut joined, mut words) = (String::new(), line.split_whitespace().peekable());
    while let Some(word) = words.next() {
        joined.push_str(word);
        if words.peek().is_some_and(|next| !next.starts_with("--")) {
            joined.push('=');
            joined.push_str(words.next().expect("peeked"));
        }
        joined.push(' ');
    }
    assert!(joined.contains("--overlap=deny "));
    assert_eq!(options(&joined), spaced);
    assert_eq!(options(&joined.replace("--", "-")), spaced, "Go takes one dash, too");

    assert_eq!(spaced.kubeconfig.as_deref(), Some("k"));
    assert_eq!((spaced.namespace.as_deref(), spaced.watch_filter.as_deref()), (Some("n"), Some("w")));
    let election = Election {
        enabled: true,
        lease_name: "l".to_owned(),
        namespace: Some("e".to_owned()),
        lease_duration: Duration::from_mins(1),
        renew_deadline: Duration::from_secs(40),
        retry_period: Duration::from_secs(5),
    };
    assert_eq!(spaced.election, election);
    assert_eq!(spaced.health_address, Some(address("127.0.0.1:1")));
    let diagnostics = Diagnostics {
        address: Some(address("127.0.0.1:3")),
        insecure: true,
        metrics_address: Some(address("127.0.0.1:4")),
    };
    assert_eq!(spaced.diagnostics, diagnostics);
    let webhooks = spaced.webhooks.expect("webhooks are on");
    assert_eq!(webhooks.address, address("[::1]:2"));
    assert_eq!((webhooks.cert_dir.as_str(), webhooks.cert_name.as_str(), webhooks.key_name.as_str()), ("d", "c", "y"));
    assert_eq!(
        (webhooks.service_name.as_deref(), webhooks.certificate_lifetime),
        (Some("s"), Duration::from_hours(24))
    );
    let suites = vec!["A".to_owned(), "B".to_owned()];
    assert_eq!(spaced.tls, Tls { min_version: TlsVersion::Tls13, cipher_suites: suites });
    assert_eq!((spaced.verbosity, spaced.log_format, spaced.shards), (4, Format::Json, 8));
    assert_eq!(spaced.member_lease_duration, Duration::from_secs(6));
    assert_eq!((spaced.orphan_grace_period, spaced.adoption_grace_period), (None, Duration::from_secs(1)));
    assert_eq!((spaced.lock_delay, spaced.overlap), (Duration::from_hours(1), Overlap::Deny));
}

#[test]
fn a_bare_boolean_is_true_and_does_not_eat_the_next_flag() {
    let options = options("--leader-elect --namespace a --insecure-diagnostics");
    assert!(options.election.enabled && options.diagnostics.insecure);
    assert_eq!(options.namespace.as_deref(), Some("a"));
    assert!(!self::options("--leader-elect=F").election.enabled);
    assert!(self::options("-leader-elect=1").election.enabled);
}

#[test]
fn the_last_of_repeated_flags_wins() {
    let options = options("--namespace a --leader-elect --namespace=b --leader-elect=false --namespace c --v 1 -v=3");
    assert_eq!(options.namespace.as_deref(), Some("c"));
    assert!(!options.election.enabled);
    assert_eq!(options.verbosity, 3);
}

#[test]
fn klogs_verbosity_comes_in_every_form() {
    for line in ["--v=5", "--v 5", "-v=5", "-v 5", "-v5"] {
        assert_eq!(options(line).verbosity, 5, "{line}");
    }
}

#[test]
fn zero_turns_servers_off() {
    let options =
        options("--health-probe-bind-address 0 --diagnostics-address=0 --metrics-bind-addr 0 --webhook-port 0");
    assert_eq!((options.health_address, options.webhooks), (None, None));
    assert_eq!((options.diagnostics.address, options.diagnostics.metrics_address), (None, None));
    assert_eq!(options.warnings, Vec::<String>::new());
}

#[test]
fn the_newer_name_of_the_health_address_wins() {
    assert_eq!(options("--health-addr=:1").health_address, Some(address("[::]:1")));
    assert_eq!(options("--health-addr=0").health_address, None);
    assert_eq!(options("--health-probe-bind-address=:2 --health-addr=:1").health_address, Some(address("[::]:2")));
}

#[test]
fn what_clusterctl_and_the_operator_pass_is_accepted_with_one_warning_each() {
    let line = "--leader-elect=true --ipaddressclaim-concurrency=10 --inclusterippool-concurrency 5 --sync-period=600s \
        --feature-gates=A=true,B=false --profiler-address=localhost:6060 --insecure-diagnostics=true --v=2 \
        --max-concurrent-reconciles=10";
    let warnings = options(line).warnings;
    let flags: Vec<_> = warnings.iter().map(|line| line.split(' ').next().expect("a word")).collect();
    assert_eq!(
        flags,
        [
            "--profiler-address",
            "--max-concurrent-reconciles",
            "--sync-period",
            "--feature-gates",
            "--ipaddressclaim-concurrency",
            "--inclusterippool-concurrency",
        ]
    );
    assert!(warnings.iter().all(|line| line.contains(" has no effect: ") && !line.contains('\n')), "{warnings:?}");
}

#[test]
fn metrics_that_nobody_can_read_yet_are_warned_about() {
    let about_metrics = |line| options(line).warnings.iter().any(|text| text.starts_with("metrics are not served"));
    assert!(about_metrics(""));
    assert!(about_metrics("--diagnostics-address=:1"));
    assert!(!about_metrics("--insecure-diagnostics"));
    assert!(!about_metrics("--diagnostics-address=0"));
}

#[test]
fn every_flag_without_effect_exists() {
    let command = Flags::command();
    let ids: Vec<_> = command.get_arguments().map(|arg| arg.get_id().as_str()).collect();
    for (id, _) in options::WITHOUT_EFFECT {
        assert!(ids.contains(id), "{id}");
    }
}

#[test]
fn unwise_values_are_warned_about() {
    assert!(options("--lock-delay=239s").warnings.iter().any(|line| line.starts_with("--lock-delay")));
    assert!(!options("--lock-delay=240s").warnings.iter().any(|line| line.starts_with("--lock-delay")));
    let old = options("--tls-min-version=VersionTLS10");
    assert_eq!(old.tls.min_version, TlsVersion::Tls12);
    assert!(old.warnings.iter().any(|line| line.contains("TLS 1.2 is the lowest")), "{:?}", old.warnings);
}

#[test]
fn the_identity_comes_from_the_environment() {
    let variable = |name: &str| match name {
        "POD_NAME" => Some("a-0".to_owned()),
        "POD_NAMESPACE" => Some("capi".to_owned()),
        "POD_UID" => Some(String::new()),
        _ => None,
    };
    let Ok(Command::Manager(options)) = parse_with([OsString::from("manager")], &variable) else {
        panic!("no flags are wrong");
    };
    let identity = Identity { pod_name: Some("a-0".to_owned()), pod_namespace: Some("capi".to_owned()), pod_uid: None };
    assert_eq!(options.identity, identity);
}

#[test]
fn a_wrong_value_is_named_with_its_flag_in_one_line() {
    for (line, expected) in [
        ("--webhook-port 65536", r#"--webhook-port: "65536" is not a port between 0 and 65535"#),
        ("--sync-period 15", r#"--sync-period: "15" lacks a unit: write 15s, 1m30s or 100ms"#),
        ("--lock-delay=-1s", r#"--lock-delay: "-1s" must not be negative"#),
        ("--lock-delay -1s", r#"--lock-delay: "-1s" must not be negative"#),
        ("--member-lease-duration 0", r#"--member-lease-duration: "0" must be longer than zero"#),
        ("--leader-elect=yes", r#"--leader-elect: "yes" is not true or false"#),
        ("--overlap=maybe", r#"--overlap: "maybe" is none of warn, deny"#),
        ("--log-format=xml", r#"--log-format: "xml" is none of auto, text and json"#),
        ("--namespace=A", r#"--namespace: "A" is not the name of a namespace"#),
        ("--webhook-service-name=a.b", r#"--webhook-service-name: "a.b" is not the name of a Service"#),
        ("--webhook-certificate-lifetime=0", r#"--webhook-certificate-lifetime: "0" must be longer than zero"#),
        ("--shards=0", r#"--shards: "0" is not accepted: 0 is not in 1..=1024"#),
        ("--v=x", r#"--v: "x" is not accepted: invalid digit found in string"#),
        ("--shards", "--shards needs a value"),
        ("-v", "--v needs a value"),
        ("--leader-elekt", "unknown flag --leader-elekt; did you mean --leader-elect?"),
        ("--zzzzzz", "unknown flag --zzzzzz"),
        ("frobnicate", r#"unknown command "frobnicate""#),
        ("--leader-elect false", r#"unknown command "false""#),
        ("crds extra", r#"unexpected argument "extra""#),
    ] {
        assert_eq!(wrong(line), expected, "{line}");
    }
    let addresses = wrong("--health-probe-bind-address=8081");
    assert!(
        addresses.starts_with(r#"--health-probe-bind-address: "8081" is not an address such as :8081"#),
        "{addresses}"
    );
}

#[test]
fn errors_leave_with_2_and_help_with_0() {
    assert_eq!(format!("{:?}", Usage::Wrong(String::new()).report()), format!("{:?}", ExitCode::from(2)));
    assert_eq!(format!("{:?}", Usage::Shown(String::new()).report()), format!("{:?}", ExitCode::SUCCESS));
}

#[test]
fn crds_are_a_subcommand() {
    assert_eq!(parsed("crds"), Ok(Command::Crds));
    assert_eq!(parsed("--v=5 crds"), Ok(Command::Crds));
}

#[test]
fn shards_are_a_subcommand_with_flags_of_its_own() {
    let Ok(Command::Shards(shards)) = parsed("--kubeconfig=k shards -n ns -o json InClusterIPPool/a/b") else {
        panic!("a subcommand")
    };
    assert_eq!((shards.kubeconfig.as_deref(), shards.namespace.as_deref(), shards.json), (Some("k"), Some("ns"), true));
    assert_eq!(shards.pool.map(|pool| pool.path()).as_deref(), Some("a/b"));
    let Ok(Command::Shards(plain)) = parsed("shards --kubeconfig k") else { panic!("a subcommand") };
    assert_eq!((plain.kubeconfig.as_deref(), plain.pool, plain.json), (Some("k"), None, false));
    assert_eq!(parsed("shards -o yaml"), Err(Usage::Wrong("--output: \"yaml\" is none of table, json".to_owned())));
    assert!(matches!(parsed("shards rack-a"), Err(Usage::Wrong(line)) if line.contains("InClusterIPPool")));
}

#[test]
fn help_is_grouped_and_shows_defaults() {
    let Err(Usage::Shown(help)) = parsed("--help") else { panic!("help was asked for") };
    for part in
        ["Webhooks:", "Sharding and safety:", "Accepted for compatibility:", "[default: 64]", ":8443", "POD_UID"]
    {
        assert!(help.contains(part), "{part} in {help}");
    }
    let Err(Usage::Shown(version)) = parsed("--version") else { panic!("the version was asked for") };
    assert_eq!(version, format!("manager {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_command_is_consistent() {
    Flags::command().debug_assert();
}
