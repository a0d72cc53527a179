//! What a scrape shows after things happened.

use super::pools::MAX_POOLS;
use super::*;

const KIND: &str = "InClusterIPPool";

fn pool<'a>(namespace: &'a str, pool: &'a str) -> PoolLabels<'a> {
    PoolLabels { kind: KIND, namespace, pool }
}

/// The value of a series, by its full name and labels.
fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let text = metrics.render(Exposition::OpenMetrics);
    let rest = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(rest.parse().expect("a number"))
}

#[test]
fn a_new_process_shows_its_version_itself_and_zeroes() {
    let metrics = Metrics::new();
    let build = format!("capi_ipam_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(value(&metrics, &build), Some(1.0));
    for kind in PoolKind::ALL.map(PoolKind::kind) {
        for counter in ["allocations", "releases", "batches", "commit_conflicts"] {
            assert_eq!(value(&metrics, &format!("capi_ipam_{counter}_total{{kind=\"{kind}\"}}")), Some(0.0));
        }
    }
    assert!(value(&metrics, "process_cpu_seconds_total").is_some());
    assert!(value(&metrics, "process_resident_memory_bytes").is_some_and(|bytes| bytes > 0.0));
    assert!(value(&metrics, "process_start_time_seconds").is_some_and(|seconds| seconds > 0.0));
    assert!(value(&metrics, "process_open_fds").is_some_and(|fds| fds > 0.0));
}

#[test]
fn a_clone_counts_in_the_same_place() {
    let metrics = Metrics::new();
    metrics.clone().allocated(KIND, 3);
    metrics.allocated(KIND, 2);
    assert_eq!(value(&metrics, r#"capi_ipam_allocations_total{kind="InClusterIPPool"}"#), Some(5.0));
}

#[test]
fn every_event_has_its_series() {
    let metrics = Metrics::new();
    metrics.released(KIND, 4);
    metrics.error("duplicate_address");
    metrics.batch(KIND, 30);
    metrics.batch(KIND, 1);
    metrics.commit_conflict(KIND);
    metrics.claim_duration(KIND, Duration::from_millis(20));
    metrics.claim_service(KIND, Duration::from_secs(700));
    metrics.api_request("create", "ipaddresses", Some(201), Duration::from_millis(4));
    metrics.api_request("create", "ipaddresses", None, Duration::from_mins(1));
    metrics.watch_restarted("ipaddressclaims", "expired");
    for (series, expected) in [
        (r#"releases_total{kind="InClusterIPPool"}"#, 4.0),
        (r#"errors_total{reason="duplicate_address"}"#, 1.0),
        (r#"batches_total{kind="InClusterIPPool"}"#, 2.0),
        (r#"batch_claims_sum{kind="InClusterIPPool"}"#, 31.0),
        (r#"batch_claims_bucket{le="1.0",kind="InClusterIPPool"}"#, 1.0),
        (r#"batch_claims_bucket{le="50.0",kind="InClusterIPPool"}"#, 2.0),
        (r#"commit_conflicts_total{kind="InClusterIPPool"}"#, 1.0),
        (r#"claim_duration_seconds_bucket{le="0.01",kind="InClusterIPPool"}"#, 0.0),
        (r#"claim_duration_seconds_bucket{le="0.025",kind="InClusterIPPool"}"#, 1.0),
        (r#"claim_service_seconds_bucket{le="600.0",kind="InClusterIPPool"}"#, 0.0),
        (r#"claim_service_seconds_bucket{le="+Inf",kind="InClusterIPPool"}"#, 1.0),
        (r#"claim_service_seconds_sum{kind="InClusterIPPool"}"#, 700.0),
        (r#"api_requests_total{verb="create",resource="ipaddresses",code="201"}"#, 1.0),
        (r#"api_requests_total{verb="create",resource="ipaddresses",code="error"}"#, 1.0),
        (r#"api_request_duration_seconds_count{verb="create",resource="ipaddresses"}"#, 2.0),
        (r#"watch_restarts_total{resource="ipaddressclaims",reason="expired"}"#, 1.0),
    ] {
        assert_eq!(
            value(&metrics, &format!("capi_ipam_{series}")),
            Some(expected),
            "{series}:\n{}",
            metrics.render(Exposition::OpenMetrics)
        );
    }
}

#[test]
fn a_pool_shows_what_was_said_last() {
    let metrics = Metrics::new();
    let labels = r#"kind="InClusterIPPool",namespace="ns",pool="a""#;
    let state = |state: &str| value(&metrics, &format!("capi_ipam_pool_addresses{{{labels},state=\"{state}\"}}"));
    let waiting = |reason: &str| value(&metrics, &format!("capi_ipam_waiting_claims{{{labels},reason=\"{reason}\"}}"));
    metrics.pool_counts(pool("ns", "a"), Counts { total: u128::MAX, free: 5, used: 4, out_of_range: 3 });
    assert_eq!(state("total"), Some(2_f64.powi(128)));
    assert_eq!((state("free"), state("used"), state("out_of_range")), (Some(5.0), Some(4.0), Some(3.0)));
    assert_eq!(value(&metrics, &format!("capi_ipam_pool_pending_intents{{{labels}}}")), None, "nobody said so");

    metrics.pool_pending_intents(pool("ns", "a"), 7);
    assert_eq!(value(&metrics, &format!("capi_ipam_pool_pending_intents{{{labels}}}")), Some(7.0));
    metrics.pool_orphaned(pool("ns", "a"), 2);
    metrics.pool_duplicates(pool("ns", "a"), 6);
    let gauge = |name: &str| value(&metrics, &format!("capi_ipam_pool_{name}_addresses{{{labels}}}"));
    assert_eq!((gauge("orphaned"), gauge("duplicate")), (Some(2.0), Some(6.0)));
    metrics.waiting_claims(pool("ns", "a"), &[("PoolExhausted", 2), ("Paused", 1)]);
    assert_eq!((waiting("PoolExhausted"), waiting("Paused")), (Some(2.0), Some(1.0)));
    metrics.waiting_claims(pool("ns", "a"), &[("Paused", 3)]);
    assert_eq!((waiting("PoolExhausted"), waiting("Paused")), (None, Some(3.0)));
    assert_eq!(state("free"), Some(5.0), "one report leaves the others alone");
}

#[test]
fn a_removed_pool_has_no_series_left() {
    let metrics = Metrics::new();
    for name in ["a", "b"] {
        metrics.pool_counts(pool("ns", name), Counts::default());
        metrics.pool_pending_intents(pool("ns", name), 1);
        metrics.waiting_claims(pool("ns", name), &[("Paused", 1)]);
    }
    metrics.remove_pool(pool("ns", "a"));
    metrics.remove_pool(pool("ns", "unknown"));
    let text = metrics.render(Exposition::OpenMetrics);
    assert!(!text.contains(r#"pool="a""#), "{text}");
    assert_eq!(text.matches(r#"pool="b""#).count(), 6, "{text}");
}

#[test]
fn beyond_the_cap_pools_are_summed_and_move_up() {
    let metrics = Metrics::new();
    let names: Vec<_> = (0..MAX_POOLS + 3).map(|number| format!("p{number:04}")).collect();
    for name in &names {
        metrics.pool_counts(pool("ns", name), Counts { total: 10, free: 7, used: 3, out_of_range: 0 });
        metrics.waiting_claims(pool("ns", name), &[("PoolExhausted", 2)]);
        metrics.pool_pending_intents(pool("ns", name), 1);
    }
    let other = r#"kind="InClusterIPPool",namespace="_other",pool="_other""#;
    let sum = |state: &str| value(&metrics, &format!("capi_ipam_pool_addresses{{{other},state=\"{state}\"}}"));
    let waiting = || value(&metrics, &format!("capi_ipam_waiting_claims{{{other},reason=\"PoolExhausted\"}}"));
    let series = || metrics.render(Exposition::OpenMetrics).matches(r#"state="total""#).count();
    assert_eq!((sum("total"), sum("free"), sum("used")), (Some(30.0), Some(21.0), Some(9.0)));
    assert_eq!(waiting(), Some(6.0));
    assert_eq!(value(&metrics, &format!("capi_ipam_pool_pending_intents{{{other}}}")), Some(3.0));
    assert_eq!(series(), MAX_POOLS + 1);

    metrics.pool_counts(pool("ns", &names[MAX_POOLS]), Counts { total: 11, ..Counts::default() });
    assert_eq!(sum("total"), Some(31.0), "a sum follows its parts");

    metrics.remove_pool(pool("ns", &names[0]));
    assert_eq!((sum("total"), series()), (Some(20.0), MAX_POOLS + 1), "one moved up");
    metrics.remove_pool(pool("ns", &names[MAX_POOLS + 2]));
    assert_eq!(sum("total"), Some(10.0));
    metrics.remove_pool(pool("ns", &names[1]));
    assert_eq!((sum("total"), series()), (None, MAX_POOLS));
    metrics.remove_pool(pool("ns", &names[2]));
    metrics.pool_counts(pool("ns", "new"), Counts::default());
    assert_eq!((sum("total"), series()), (None, MAX_POOLS), "the freed place is used again");
}

#[test]
fn names_in_labels_cannot_break_the_format() {
    let metrics = Metrics::new();
    metrics.pool_counts(pool("n\\s", "a\"b\nc"), Counts::default());
    let text = metrics.render(Exposition::OpenMetrics);
    assert!(text.contains(r#"namespace="n\\s",pool="a\"b\nc",state="total"} 0"#), "{text}");
}

#[test]
fn the_text_is_whole_and_every_family_is_described_once() {
    let metrics = Metrics::new();
    metrics.pool_counts(pool("ns", "a"), Counts::default());
    metrics.claim_duration(KIND, Duration::from_secs(1));
    let text = metrics.render(Exposition::OpenMetrics);
    assert!(text.ends_with("# EOF\n"), "{text}");
    let mut described: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(
        described.iter().all(|line| line.starts_with("capi_ipam_") || line.starts_with("process_")),
        "{described:?}"
    );
    let families = described.len();
    described.sort_unstable();
    described.dedup();
    assert_eq!(described.len(), families, "{described:?}");
}
