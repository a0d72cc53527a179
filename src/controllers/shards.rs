//! Who works on what, for people: members, shards and pools as the Leases have them.
//!
//! Times of other machines are compared with the API server's here, which no decision may do: it is only shown.

mod table;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use serde::Serialize;

use crate::api::lease::{RING_LABEL, SHARDS_LABEL, label, read};
use crate::api::names::PoolKind;
use crate::api::pools::PoolObject;
use crate::k8s::clients::why;
use crate::k8s::clock::Clock;
use crate::k8s::observe::pool_key;
use crate::k8s::watch::list_all;
use crate::pool::key::PoolKey;
use crate::shard::key::shard_of;
use crate::shard::lease::{Identity, LeaseKey, LeaseNames};

/// What a namespace's Leases say, ring by ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Installations that share their work, each by itself.
    pub rings: Vec<Ring>,
}

/// Replicas that share their work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ring {
    /// The part of the Leases' names that they have in common.
    pub name: String,
    /// Its replicas.
    pub members: Vec<Member>,
    /// Its shards, all of them.
    pub shards: Vec<Shard>,
}

/// What a member Lease says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It renews its Lease.
    Live,
    /// It renews its Lease and gives its shards up.
    Leaving,
    /// It has not renewed its Lease for longer than that lasts.
    Silent,
}

/// A replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Its Pod, or what it calls itself.
    pub name: String,
    /// This run of it.
    pub identity: String,
    /// Whether it lives.
    pub state: State,
    /// `spec.renewTime`
    pub renewed: Option<Timestamp>,
    /// Seconds since then, by the API server's clock.
    pub seconds_since_renewal: Option<i64>,
    /// How many shards it holds.
    pub shards: usize,
    /// How many pools are on them.
    pub pools: usize,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shard {
    /// From 0.
    pub number: u16,
    /// The member that holds it; none if nobody does.
    pub holder: Option<String>,
    /// Whether that member lives, and is the run that took the shard.
    pub has_live_owner: bool,
    /// Grows with every change of hands.
    pub epoch: u32,
    /// Since when it is held or free.
    pub since: Option<Timestamp>,
    /// Its pools, as `<kind> <namespace>/<name>`.
    pub pools: Vec<String>,
}

/// Reads all Leases of a namespace and all pools.
pub async fn report(client: &Client, namespace: &str, clock: &Clock) -> Result<Report, String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let (leases, _) = list_all(&leases)
        .await
        .map_err(|error| format!("cannot list the Leases of namespace {namespace}: {}", why(&error)))?;
    let mut pools = Vec::new();
    for kind in PoolKind::ALL {
        let api: Api<PoolObject> = Api::all_with(client.clone(), &kind.api_resource());
        match list_all(&api).await {
            Ok((items, _)) => pools.extend(items.iter().filter_map(|item| pool_key(kind, &item.metadata))),
            // Manifests of an older release bring no prefix pools.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(format!("cannot list {}: {}", kind.plural(), why(&error))),
        }
    }
    Ok(of(&leases, &pools, clock.now().server))
}

/// The report on these Leases and pools.
pub fn of(leases: &[Lease], pools: &[PoolKey], now: Timestamp) -> Report {
    let mut rings: BTreeMap<&str, Vec<&Lease>> = BTreeMap::new();
    for lease in leases {
        if let Some(ring) = label(lease, RING_LABEL) {
            rings.entry(ring).or_default().push(lease);
        }
    }
    Report { rings: rings.into_iter().map(|(name, leases)| ring(name, &leases, pools, now)).collect() }
}

fn ring(name: &str, leases: &[&Lease], pools: &[PoolKey], now: Timestamp) -> Ring {
    let size = |lease: &&Lease| label(lease, SHARDS_LABEL)?.parse::<u16>().ok();
    let names = LeaseNames::new(name, leases.iter().find_map(size).unwrap_or(0));
    let keyed: BTreeMap<LeaseKey, &Lease> =
        leases.iter().filter_map(|lease| Some((names.parse(lease.metadata.name.as_deref()?)?, *lease))).collect();
    let live: Vec<(Identity, Member)> = keyed
        .iter()
        .filter(|(key, _)| matches!(key, LeaseKey::Member(_)))
        .filter_map(|(_, lease)| member(lease, now))
        .collect();
    let shards: Vec<Shard> =
        (0..names.shards()).map(|number| shard(number, keyed.get(&LeaseKey::Shard(number)), &live)).collect();
    let mut ring =
        Ring { name: name.to_owned(), members: live.into_iter().map(|(_, member)| member).collect(), shards };
    for pool in pools {
        let number = shard_of(pool.kind.kind(), &pool.namespace, &pool.name, names.shards().max(1));
        if let Some(shard) = ring.shards.get_mut(usize::from(number)) {
            shard.pools.push(pool.to_string());
        }
    }
    for member in &mut ring.members {
        let held = || ring.shards.iter().filter(|shard| shard.has_live_owner || member.state == State::Silent);
        let held = || held().filter(|shard| shard.holder.as_ref() == Some(&member.name));
        member.shards = held().count();
        member.pools = held().map(|shard| shard.pools.len()).sum();
    }
    ring
}

fn member(lease: &Lease, now: Timestamp) -> Option<(Identity, Member)> {
    let seen = read(lease);
    let identity = seen.holder.ours()?.clone();
    let renewed = lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0);
    let age = renewed.map(|renewed| now.duration_since(renewed).as_secs().max(0));
    let limit = i64::try_from(seen.duration.as_secs()).unwrap_or(i64::MAX);
    let state = match age {
        Some(age) if age <= limit && seen.leaving => State::Leaving,
        Some(age) if age <= limit => State::Live,
        _ => State::Silent,
    };
    let member = Member {
        name: identity.member().to_string(),
        identity: identity.to_string(),
        state,
        renewed,
        seconds_since_renewal: age,
        shards: 0,
        pools: 0,
    };
    Some((identity, member))
}

fn shard(number: u16, lease: Option<&&Lease>, members: &[(Identity, Member)]) -> Shard {
    let seen = lease.map(|lease| read(lease));
    let holder = seen.as_ref().and_then(|seen| seen.holder.ours());
    let lives = |(identity, member): &(Identity, Member)| Some(identity) == holder && member.state != State::Silent;
    Shard {
        number,
        holder: holder.map(|holder| holder.member().to_string()),
        has_live_owner: members.iter().any(lives),
        epoch: seen.as_ref().map_or(0, |seen| seen.epoch),
        since: lease.and_then(|lease| lease.spec.as_ref()?.acquire_time.as_ref()).map(|time| time.0),
        pools: Vec::new(),
    }
}

impl Report {
    /// Keeps what concerns one pool, which need not exist.
    #[must_use]
    pub fn about(mut self, pool: &PoolKey) -> Self {
        for ring in &mut self.rings {
            let size = u16::try_from(ring.shards.len()).unwrap_or(u16::MAX).max(1);
            let number = shard_of(pool.kind.kind(), &pool.namespace, &pool.name, size);
            ring.shards.retain(|shard| shard.number == number);
            for shard in &mut ring.shards {
                shard.pools = vec![pool.to_string()];
            }
            ring.members.retain(|member| ring.shards.iter().any(|shard| shard.holder.as_ref() == Some(&member.name)));
        }
        self
    }

    /// As JSON, for programs.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).map_or_else(|error| error.to_string(), |text| text + "\n")
    }
}

#[cfg(test)]
mod tests;
