//! Looks at the Pods of members that fall silent: one that is gone is dead at once (O3).

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Client;

use crate::k8s::pods::{Look, look};
use crate::pool::key::Boot;
use crate::shard::lease::{Identity, Lease, LeaseKey, Member};
use crate::shard::ownership::Listing;

/// Between two looks at one Pod, at first.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// And when it has been silent for long.
const LOOK_SELDOM: Duration = Duration::from_secs(30);

struct Peer {
    identity: Identity,
    version: u64,
    /// When its Lease was first seen as it is.
    seen: Boot,
    looked: Boot,
}

/// The other members, as far as their Pods are known.
pub(super) struct Peers {
    me: Identity,
    client: Client,
    /// Silence that is worth a look: a live member renews twice in that time.
    silence: Duration,
    others: BTreeMap<Member, Peer>,
}

impl Peers {
    pub(super) fn new(me: &Identity, client: Client, duration: Duration) -> Self {
        Self { me: me.clone(), client, silence: duration * 7 / 10, others: BTreeMap::new() }
    }

    pub(super) fn note(&mut self, key: &LeaseKey, lease: &Lease, now: Boot) {
        let LeaseKey::Member(member) = key else { return };
        let Some(identity) = lease.holder.ours().filter(|identity| **identity != self.me) else {
            self.others.remove(member);
            return;
        };
        if self.others.get(member).is_none_or(|known| known.version != lease.version) {
            let peer = Peer { identity: identity.clone(), version: lease.version, seen: now, looked: now };
            self.others.insert(member.clone(), peer);
        }
    }

    pub(super) fn forget(&mut self, key: &LeaseKey) {
        if let LeaseKey::Member(member) = key {
            self.others.remove(member);
        }
    }

    pub(super) fn replace(&mut self, listing: &Listing, now: Boot) {
        self.others.retain(|member, _| listing.leases.contains_key(&LeaseKey::Member(member.clone())));
        for (key, lease) in &listing.leases {
            self.note(key, lease, now);
        }
    }

    /// The looks that are due: each tells the member and the uid of a Pod that is gone.
    pub(super) fn looks(&mut self, now: Boot) -> Vec<BoxFuture<'static, Option<(Member, String)>>> {
        let mut looks = Vec::new();
        for (member, peer) in &mut self.others {
            let silent = now.saturating_sub(peer.seen);
            let is_due = now.saturating_sub(peer.looked) >= (silent / 4).clamp(LOOK_EVERY, LOOK_SELDOM);
            let Some(uid) = peer.identity.pod_uid().filter(|_| silent >= self.silence && is_due) else { continue };
            peer.looked = now;
            let (client, member, uid) = (self.client.clone(), member.clone(), uid.to_owned());
            let namespace = peer.identity.namespace().to_owned();
            let request = async move {
                let look = look(&client, &namespace, member.as_str(), &uid).await;
                (look == Look::Gone).then_some((member, uid))
            };
            looks.push(request.boxed());
        }
        looks
    }
}
