//! Puts the webhooks together: what flags ask for, and what the controllers see.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::{Options, Overlap, TlsVersion};
use crate::controllers::lifecycle::Controllers;
use crate::controllers::sight::Sight;
use crate::ipam::pool::Pool;
use crate::k8s::clock::Deadline;
use crate::pool::key::{ObjectKey, PoolKey};
use crate::webhooks::admission::{Facts, HeldOrText, Policy, Seen};
use crate::webhooks::certificates::keeper::Settings;
use crate::webhooks::certificates::plan::Lives;
use crate::webhooks::folder::Folder;
use crate::webhooks::routes;
use crate::webhooks::service::Webhooks;
use crate::webhooks::tls;

/// Starts them, where they are wanted. The task ends some seconds after `stop`.
pub(super) async fn start(
    options: &Options,
    controllers: &Controllers,
    leads: Deadline,
    stop: &CancellationToken,
) -> Result<Option<JoinHandle<()>>> {
    let Some(asked) = &options.webhooks else { return Ok(None) };
    let folder = Path::new(&asked.cert_dir);
    let policy = Policy { deny_overlap: options.overlap == Overlap::Deny };
    let Controllers { clients, clock, metrics, health, sight, .. } = controllers;
    let own = options.identity.pod_namespace.clone().zip(asked.service_name.clone()).map(|(namespace, service)| {
        let clock = clock.clone();
        Settings {
            namespace,
            service,
            lives: Lives::of(asked.certificate_lifetime),
            client: clients.request.clone(),
            clock: clock.clone(),
            leads: Arc::new(move || !leads.has_passed(clock.boot())),
        }
    });
    let webhooks = Webhooks {
        address: asked.address,
        folder: Folder { certificate: folder.join(&asked.cert_name), key: folder.join(&asked.key_name) },
        own,
        tls: tls::Settings {
            only_1_3: options.tls.min_version == TlsVersion::Tls13,
            cipher_suites: options.tls.cipher_suites.clone(),
        },
        router: routes::router(Box::new(Known(sight.clone())), policy, metrics.clone()),
        health: health.clone(),
    };
    Ok(Some(webhooks.start(stop.clone()).await?))
}

/// What the router has seen, once it has seen everything.
struct Known(Sight);

impl Facts for Known {
    fn holdings(&self, pool: &PoolKey, look: &mut dyn FnMut(&ObjectKey, &HeldOrText)) -> Seen {
        let Some(view) = self.0.view() else { return Seen::NotYet };
        let view = view.read();
        if view.hides_addresses_of(pool) {
            return Seen::Hidden;
        }
        for address in view.addresses_of(pool) {
            look(&address.key, &address.held);
        }
        Seen::All
    }

    fn pools(&self) -> Option<Vec<(PoolKey, Pool)>> {
        let view = self.0.view()?;
        let view = view.read();
        let valid =
            view.known_pools().filter_map(|(key, view)| Some((key.clone(), view.spec.as_ref().ok()?.pool.clone())));
        Some(valid.collect())
    }
}
