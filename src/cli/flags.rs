//! The command line as clap sees it: every flag with its help, default and value parser.

use std::net::IpAddr;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, value_parser};

use super::duration;
use super::values::{self, Listen};
use crate::pool::key::PoolKey;
use crate::telemetry::logs::Format;

/// The original's leader Lease: same name, so that an original beside us stands by.
const LEADER_LEASE: &str = "7bb7acb4.ipam.cluster.x-k8s.io";

const SCOPE: &str = "What is served";
const SERVERS: &str = "Probes, metrics and logs";
const WEBHOOKS: &str = "Webhooks";
const SHARDING: &str = "Sharding and safety";
const ELECTION: &str = "Leader election";
const API: &str = "API server";
const COMPATIBILITY: &str = "Accepted for compatibility";

/// Everything that can be given, before it is checked as a whole.
///
/// Every argument overrides its earlier self (pflag: the last one wins), and a flag that takes a value takes the next
/// argument whatever it looks like (pflag again), hence `allow_hyphen_values`.
#[derive(Debug, Parser)]
#[command(
    name = "manager",
    version,
    about = "In-cluster IPAM provider for Cluster API: sharded, highly available, and safe against double allocation",
    long_about = None,
    args_override_self = true,
    subcommand_negates_reqs = true,
    max_term_width = 120,
    after_help = "Flags also take Go's forms: -flag value, --flag=value, --flag=false; durations as 15s or 1m30s.\n\
        The environment gives POD_NAME, POD_NAMESPACE and POD_UID (who this replica is), RUST_LOG (wins over --v) and\n\
        OTEL_* (traces are exported when OTEL_EXPORTER_OTLP_ENDPOINT is set)."
)]
pub(super) struct Flags {
    #[command(subcommand)]
    pub(super) command: Option<Subcommands>,

    /// Kubeconfig file; without it the pod's service account, then the usual places
    #[arg(long, value_name = "FILE", allow_hyphen_values = true, help_heading = API)]
    pub(super) kubeconfig: Option<String>,
    /// Requests per second to the API server
    #[arg(long, value_name = "RATE", allow_hyphen_values = true, help_heading = API)]
    pub(super) kube_api_qps: Option<f32>,
    /// Requests at once above --kube-api-qps
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = API)]
    pub(super) kube_api_burst: Option<i32>,

    /// Serve only claims of this namespace (empty: of all)
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, allow_hyphen_values = true,
          value_parser = values::namespace, help_heading = SCOPE)]
    pub(super) namespace: String,
    /// Serve only claims whose label cluster.x-k8s.io/watch-filter has this value
    #[arg(long, value_name = "VALUE", default_value = "", hide_default_value = true, allow_hyphen_values = true,
          value_parser = values::label_value, help_heading = SCOPE)]
    pub(super) watch_filter: String,

    /// Shards that the pools are spread over; the same on every replica
    #[arg(long, value_name = "N", default_value_t = 64, allow_hyphen_values = true,
          value_parser = value_parser!(u16).range(1..=1024), help_heading = SHARDING)]
    pub(super) shards: u16,
    /// How long a silent replica keeps its shards
    #[arg(long, value_name = "DURATION", default_value = "5s", allow_hyphen_values = true,
          value_parser = duration::parse_positive, help_heading = SHARDING)]
    pub(super) member_lease_duration: Duration,
    /// Release an address whose claim is gone after this time (0: never)
    #[arg(long, value_name = "DURATION", default_value = "10m", allow_hyphen_values = true,
          value_parser = duration::parse, help_heading = SHARDING)]
    pub(super) orphan_grace_period: Duration,
    /// How long a moved or restored claim may wait for its address before it gets a new one (0: not at all)
    #[arg(long, value_name = "DURATION", default_value = "60s", allow_hyphen_values = true,
          value_parser = duration::parse, help_heading = SHARDING)]
    pub(super) adoption_grace_period: Duration,
    /// After this time a request of a vanished replica is taken for lost
    #[arg(long, value_name = "DURATION", default_value = "20m", allow_hyphen_values = true,
          value_parser = duration::parse_positive, help_heading = SHARDING)]
    pub(super) lock_delay: Duration,
    /// Pools that overlap another pool: warn about them or deny them
    #[arg(long, value_name = "ACTION", default_value = "warn", allow_hyphen_values = true,
          value_parser = ["warn", "deny"], help_heading = SHARDING)]
    pub(super) overlap: String,

    /// Share the work with other replicas through Leases
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", action = ArgAction::Set, value_parser = values::boolean, help_heading = ELECTION)]
    pub(super) leader_elect: bool,
    /// Name of the leader's Lease
    #[arg(long, value_name = "NAME", default_value = LEADER_LEASE, allow_hyphen_values = true, help_heading = ELECTION)]
    pub(super) leader_election_id: String,
    /// Namespace of all Leases (default: that of the pod, then that of the kubeconfig)
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, allow_hyphen_values = true,
          value_parser = values::namespace, help_heading = ELECTION)]
    pub(super) leader_election_namespace: String,
    /// How long a silent leader stays leader
    #[arg(long, value_name = "DURATION", default_value = "15s", allow_hyphen_values = true,
          value_parser = duration::parse_positive, help_heading = ELECTION)]
    pub(super) leader_elect_lease_duration: Duration,
    /// How long a leader tries to renew before it gives up
    #[arg(long, value_name = "DURATION", default_value = "10s", allow_hyphen_values = true,
          value_parser = duration::parse_positive, help_heading = ELECTION)]
    pub(super) leader_elect_renew_deadline: Duration,
    /// Pause between tries for the leader's Lease
    #[arg(long, value_name = "DURATION", default_value = "2s", allow_hyphen_values = true,
          value_parser = duration::parse_positive, help_heading = ELECTION)]
    pub(super) leader_elect_retry_period: Duration,

    /// Address of /healthz and /readyz (0: none)
    #[arg(long, value_name = "ADDRESS", default_value = ":8081", allow_hyphen_values = true,
          value_parser = values::listen, help_heading = SERVERS)]
    pub(super) health_probe_bind_address: Listen,
    /// Older name of --health-probe-bind-address
    #[arg(long, value_name = "ADDRESS", allow_hyphen_values = true, value_parser = values::listen, help_heading = SERVERS)]
    pub(super) health_addr: Option<Listen>,
    /// Address of /metrics (0: none)
    #[arg(long, value_name = "ADDRESS", default_value = ":8443", allow_hyphen_values = true,
          value_parser = values::listen, help_heading = SERVERS)]
    pub(super) diagnostics_address: Listen,
    /// Serve --diagnostics-address over plain HTTP, for everybody who can reach it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", action = ArgAction::Set, value_parser = values::boolean, help_heading = SERVERS)]
    pub(super) insecure_diagnostics: bool,
    /// Serve /metrics over plain HTTP here as well (0: not)
    #[arg(long, value_name = "ADDRESS", default_value = "0", allow_hyphen_values = true,
          value_parser = values::listen, help_heading = SERVERS)]
    pub(super) metrics_bind_addr: Listen,
    /// Log lines for people (text), for machines (json), or as stderr is a terminal or not (auto)
    #[arg(long, value_name = "FORMAT", default_value = "auto", allow_hyphen_values = true,
          value_parser = values::log_format, help_heading = SERVERS)]
    pub(super) log_format: Format,
    /// Detail of the log: 0 is info, 1 to 3 debug, 4 and more trace
    #[arg(short, long = "v", value_name = "N", default_value_t = 0, allow_hyphen_values = true, help_heading = SERVERS)]
    pub(super) verbosity: i32,

    /// Port of the webhooks (0: none)
    #[arg(long, value_name = "PORT", default_value = "9443", allow_hyphen_values = true,
          value_parser = values::port, help_heading = WEBHOOKS)]
    pub(super) webhook_port: u16,
    /// Address that the webhooks listen on (default: every one)
    #[arg(long, value_name = "IP", default_value = "", hide_default_value = true, allow_hyphen_values = true,
          value_parser = values::host, help_heading = WEBHOOKS)]
    pub(super) webhook_host: IpAddr,
    /// Folder of the webhooks' certificate and key
    #[arg(long, value_name = "FOLDER", default_value = "/tmp/k8s-webhook-server/serving-certs",
          allow_hyphen_values = true, help_heading = WEBHOOKS)]
    pub(super) webhook_cert_dir: String,
    /// File of the certificate in that folder
    #[arg(long, value_name = "FILE", default_value = "tls.crt", allow_hyphen_values = true, help_heading = WEBHOOKS)]
    pub(super) webhook_cert_name: String,
    /// File of the key in that folder
    #[arg(long, value_name = "FILE", default_value = "tls.key", allow_hyphen_values = true, help_heading = WEBHOOKS)]
    pub(super) webhook_key_name: String,
    /// Service that leads to the webhooks: with it, and without a certificate in the folder, the replicas make one
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, allow_hyphen_values = true,
          value_parser = values::service, help_heading = WEBHOOKS)]
    pub(super) webhook_service_name: String,
    /// How long a certificate lasts that the replicas make; it is renewed after two thirds of that
    #[arg(long, value_name = "DURATION", default_value = "2160h", allow_hyphen_values = true,
          value_parser = duration::parse_positive, help_heading = WEBHOOKS)]
    pub(super) webhook_certificate_lifetime: Duration,
    /// Lowest TLS version of all servers
    #[arg(long, value_name = "VERSION", default_value = "VersionTLS12", allow_hyphen_values = true,
          value_parser = ["VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13"], help_heading = WEBHOOKS)]
    pub(super) tls_min_version: String,
    /// Cipher suites for TLS 1.2, by their IANA names (default: the library's)
    #[arg(long, value_name = "NAMES", value_delimiter = ',', allow_hyphen_values = true, help_heading = WEBHOOKS)]
    pub(super) tls_cipher_suites: Vec<String>,

    /// No profiler is built in
    #[arg(long, value_name = "ADDRESS", allow_hyphen_values = true, help_heading = COMPATIBILITY)]
    pub(super) profiler_address: Option<String>,
    /// Pools are worked on independently and claims in batches: there is nothing to limit
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = COMPATIBILITY)]
    pub(super) max_concurrent_reconciles: Option<i64>,
    /// Objects are compared with the API server's on a schedule of our own
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = duration::parse, help_heading = COMPATIBILITY)]
    pub(super) sync_period: Option<Duration>,
    /// There are no feature gates
    #[arg(long, value_name = "A=BOOL,...", allow_hyphen_values = true, help_heading = COMPATIBILITY)]
    pub(super) feature_gates: Option<String>,
}

/// What the program can do besides being the manager.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum Subcommands {
    /// Print the custom resource definitions
    Crds,
    /// Show which replicas are alive, and which of them works on which shards and pools
    Shards(ShardsFlags),
}

/// What `manager shards` takes.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub(super) struct ShardsFlags {
    /// Only this pool, which need not exist: <kind>/<namespace>/<name>, or <kind>/<name> for the Global kinds
    #[arg(value_name = "POOL", value_parser = values::pool)]
    pub(super) pool: Option<PoolKey>,
    /// Kubeconfig file; without it the pod's service account, then the usual places
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub(super) kubeconfig: Option<String>,
    /// Namespace of the replicas' Leases; without it the Pod's own, then the kubeconfig's
    #[arg(long, short, value_name = "NAMESPACE", value_parser = values::namespace)]
    pub(super) namespace: Option<String>,
    /// How to print it
    #[arg(long, short, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
    pub(super) output: String,
}
