//! What the flags and the environment ask of the manager, as typed values that have been checked.

use std::net::SocketAddr;
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::flags::Flags;
use crate::telemetry::logs::Format;

/// Shorter than this, a request that the kernel of a dead process still delivers (180 s) is not outwaited by ¾ of it.
const SHORTEST_SAFE_LOCK_DELAY: Duration = Duration::from_mins(4);

/// Flags that are accepted and change nothing, each with the reason that its warning gives.
///
/// Remove a line together with the change that gives its flag a meaning.
pub(super) const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("kube_api_qps", "the API server's own fairness limits requests"),
    ("kube_api_burst", "the API server's own fairness limits requests"),
    ("profiler_address", "no profiler is built in"),
    ("max_concurrent_reconciles", "pools are worked on independently and claims in batches"),
    ("sync_period", "objects are compared on a schedule of our own"),
    ("feature_gates", "there are no feature gates"),
    ("leader_elect_renew_deadline", "a leader that cannot renew does nothing that two could not do"),
];

/// How the manager runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Who this replica is.
    pub identity: Identity,
    /// Kubeconfig file that was asked for.
    pub kubeconfig: Option<String>,
    /// Serve only claims of this namespace.
    pub namespace: Option<String>,
    /// Serve only claims with this value of the watch-filter label.
    pub watch_filter: Option<String>,
    /// Number of shards.
    pub shards: u16,
    /// How long a silent replica keeps its shards.
    pub member_lease_duration: Duration,
    /// Wait before an address without a claim is released; `None`: never release it.
    pub orphan_grace_period: Option<Duration>,
    /// Wait for the address of a moved or restored claim; zero: none.
    pub adoption_grace_period: Duration,
    /// After this time a request of a vanished replica is taken for lost.
    pub lock_delay: Duration,
    /// What to do about overlapping pools.
    pub overlap: Overlap,
    /// Leases, and when they run out.
    pub election: Election,
    /// Where `/healthz` and `/readyz` are served.
    pub health_address: Option<SocketAddr>,
    /// Metrics and other diagnostics.
    pub diagnostics: Diagnostics,
    /// Where and with which files webhooks are served; `None`: nowhere.
    pub webhooks: Option<Webhooks>,
    /// TLS of all servers.
    pub tls: Tls,
    /// How log lines look.
    pub log_format: Format,
    /// `--v`: 0 is info, 1 to 3 debug, 4 and more trace.
    pub verbosity: i32,
    /// One line for each flag that was given and has no effect, or an unwise one: to be logged at start.
    pub warnings: Vec<String>,
}

/// Who this replica is, from the downward API.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// `POD_NAME`.
    pub pod_name: Option<String>,
    /// `POD_NAMESPACE`.
    pub pod_namespace: Option<String>,
    /// `POD_UID`.
    pub pod_uid: Option<String>,
}

/// What happens when a pool overlaps another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// It is accepted with a warning.
    Warn,
    /// Admission refuses it.
    Deny,
}

/// Leader election as the original's flags describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Election {
    /// Whether replicas share the work through Leases at all.
    pub enabled: bool,
    /// Name of the leader's Lease.
    pub lease_name: String,
    /// Namespace of all Leases, where it was given.
    pub namespace: Option<String>,
    /// How long a silent leader stays leader.
    pub lease_duration: Duration,
    /// How long a leader tries to renew.
    pub renew_deadline: Duration,
    /// Pause between tries.
    pub retry_period: Duration,
}

/// Where metrics are served, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Diagnostics {
    /// `--diagnostics-address`; `None` where it is turned off.
    pub address: Option<SocketAddr>,
    /// Serve [`address`](Self::address) over plain HTTP and to everybody; otherwise only over HTTPS to whom the API
    /// server allows it.
    pub insecure: bool,
    /// `--metrics-bind-addr`: plain HTTP.
    pub metrics_address: Option<SocketAddr>,
}

/// The webhook server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhooks {
    /// Where it listens.
    pub address: SocketAddr,
    /// Folder of certificate and key.
    pub cert_dir: String,
    /// The certificate's file in it.
    pub cert_name: String,
    /// The key's file in it.
    pub key_name: String,
    /// The Service that leads to them.
    pub service_name: Option<String>,
    /// How long certificates last that they make themselves.
    pub certificate_lifetime: Duration,
}

/// TLS of all servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Lowest version that is spoken.
    pub min_version: TlsVersion,
    /// IANA names of the cipher suites for TLS 1.2; empty: the library's choice.
    pub cipher_suites: Vec<String>,
}

/// A version of TLS that is safe to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl Options {
    /// Puts the flags together with the environment; `matches` tells which of them were given.
    pub(super) fn assemble(
        flags: Flags,
        matches: &ArgMatches,
        concurrency: &[String],
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let warnings = warnings(&flags, matches, concurrency);
        let given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        // Two names of one thing: the newer one counts if both were given.
        let health = match flags.health_addr {
            Some(older) if !given("health_probe_bind_address") => older,
            _ => flags.health_probe_bind_address,
        };
        Self {
            identity: Identity {
                pod_name: variable("POD_NAME").filter(|name| !name.is_empty()),
                pod_namespace: variable("POD_NAMESPACE").filter(|name| !name.is_empty()),
                pod_uid: variable("POD_UID").filter(|uid| !uid.is_empty()),
            },
            kubeconfig: flags.kubeconfig.filter(|file| !file.is_empty()),
            namespace: Some(flags.namespace).filter(|name| !name.is_empty()),
            watch_filter: Some(flags.watch_filter).filter(|value| !value.is_empty()),
            shards: flags.shards,
            member_lease_duration: flags.member_lease_duration,
            orphan_grace_period: Some(flags.orphan_grace_period).filter(|period| !period.is_zero()),
            adoption_grace_period: flags.adoption_grace_period,
            lock_delay: flags.lock_delay,
            overlap: if flags.overlap == "deny" { Overlap::Deny } else { Overlap::Warn },
            election: Election {
                enabled: flags.leader_elect,
                lease_name: flags.leader_election_id,
                namespace: Some(flags.leader_election_namespace).filter(|name| !name.is_empty()),
                lease_duration: flags.leader_elect_lease_duration,
                renew_deadline: flags.leader_elect_renew_deadline,
                retry_period: flags.leader_elect_retry_period,
            },
            health_address: health.address(),
            diagnostics: Diagnostics {
                address: flags.diagnostics_address.address(),
                insecure: flags.insecure_diagnostics,
                metrics_address: flags.metrics_bind_addr.address(),
            },
            webhooks: (flags.webhook_port != 0).then(|| Webhooks {
                address: SocketAddr::new(flags.webhook_host, flags.webhook_port),
                cert_dir: flags.webhook_cert_dir,
                cert_name: flags.webhook_cert_name,
                key_name: flags.webhook_key_name,
                service_name: Some(flags.webhook_service_name).filter(|name| !name.is_empty()),
                certificate_lifetime: flags.webhook_certificate_lifetime,
            }),
            tls: Tls {
                min_version: if flags.tls_min_version == "VersionTLS13" {
                    TlsVersion::Tls13
                } else {
                    TlsVersion::Tls12
                },
                cipher_suites: flags.tls_cipher_suites.into_iter().filter(|name| !name.is_empty()).collect(),
            },
            log_format: flags.log_format,
            verbosity: flags.verbosity,
            warnings,
        }
    }
}

fn warnings(flags: &Flags, matches: &ArgMatches, concurrency: &[String]) -> Vec<String> {
    let given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let mut warnings: Vec<String> = WITHOUT_EFFECT
        .iter()
        .filter(|(id, _)| given(id))
        .map(|(id, reason)| format!("--{} has no effect: {reason}", id.replace('_', "-")))
        .chain(
            concurrency
                .iter()
                .map(|flag| format!("{flag} has no effect: pools are worked on independently and claims in batches")),
        )
        .collect();
    if flags.diagnostics_address.address().is_some() && !flags.insecure_diagnostics {
        warnings.push(
            "metrics are not served at --diagnostics-address: HTTPS is not there yet; \
             use --insecure-diagnostics or --metrics-bind-addr"
                .to_owned(),
        );
    }
    if matches!(flags.tls_min_version.as_str(), "VersionTLS10" | "VersionTLS11") {
        warnings.push(format!("--tls-min-version={}: TLS 1.2 is the lowest version spoken", flags.tls_min_version));
    }
    if flags.lock_delay < SHORTEST_SAFE_LOCK_DELAY {
        warnings.push(format!(
            "--lock-delay is below {} s: an address may be given out twice after a crash",
            SHORTEST_SAFE_LOCK_DELAY.as_secs()
        ));
    }
    warnings
}
