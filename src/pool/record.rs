//! The allocation record of a pool: what was promised and not yet settled (docs/sharding.md, rules F1–F10).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Map, Value};

use super::key::{ObjectKey, Sender, Uid, Version};
use super::rule::{Rule, is_broken};
use crate::api::parse;
use crate::api::status::{Allocation, PendingIntent};
use crate::ipam::pool::Held;

/// F10: more intents than this are not kept pending; it bounds the status to a fraction of what etcd takes (1.5 MiB).
pub const MAX_INTENTS: usize = 512;
/// F10: nor more bytes of them.
pub const MAX_BYTES: usize = 128 * 1024;

/// A promise, written before the create that carries it out: this address goes to this claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The address, or the base and length of the prefix.
    pub held: Held,
    /// The claim's name, which is the IPAddress' too.
    pub claim: ObjectKey,
    /// The claim's uid: a later claim of the same name has no part in this promise.
    pub claim_uid: Uid,
    /// `seq` of the commit that listed the latest sender.
    pub seq: u64,
    /// Who may have sent a create for it.
    pub senders: BTreeSet<Sender>,
    /// Fields that a newer version wrote.
    pub other: Map<String, Value>,
}

impl Intent {
    /// About how many bytes it takes when rendered (F10).
    pub fn bytes(&self) -> usize {
        /// Field names, quotes, a uid, a number and an address of IPv6.
        const BESIDE_NAMES: usize = 150;
        BESIDE_NAMES + self.claim.namespace.len() + self.claim.name.len()
    }
}

/// `status.allocation`, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Increases with every commit.
    pub seq: u64,
    /// No commit may rely on a view of the IPAddresses that is older than this (F3).
    pub settled: Version,
    /// By claim uid: a claim is promised one address at a time (F4).
    pub pending: BTreeMap<Uid, Intent>,
    /// Fields that a newer version wrote.
    pub other: Map<String, Value>,
}

/// A record that nobody of ours wrote: to be treated as lost (F9).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("status.allocation is malformed: {0}")]
pub struct Malformed(String);

impl Record {
    /// Decodes what the server stores; `prefix` is the length of an entry that carries none (IP pools).
    pub fn read(wire: &Allocation, prefix: u8) -> Result<Self, Malformed> {
        let seq = u64::try_from(wire.seq).map_err(|_| Malformed("seq is negative".into()))?;
        let settled = Version::parse(&wire.settled_resource_version);
        let mut pending = BTreeMap::new();
        for (index, entry) in wire.pending.iter().enumerate() {
            let intent = read_intent(entry, &wire.senders, prefix)
                .ok_or_else(|| Malformed(format!("pending[{index}] cannot be read")))?;
            if pending.insert(intent.claim_uid.clone(), intent).is_some() {
                return Err(Malformed(format!("pending[{index}] repeats a claim")));
            }
        }
        Ok(Self { seq, settled, pending, other: wire.other.clone() })
    }

    /// Renders it for the server; senders are a table, because each name would otherwise stand there many times.
    pub fn render(&self) -> Allocation {
        let table: BTreeSet<&Sender> = self.pending.values().flat_map(|intent| &intent.senders).collect();
        let index: BTreeMap<&Sender, i64> = table.iter().copied().zip(0..).collect();
        let pending = self
            .pending
            .values()
            .map(|intent| PendingIntent {
                address: render_held(intent.held),
                claim: intent.claim.to_string(),
                claim_uid: intent.claim_uid.to_string(),
                seq: i64::try_from(intent.seq).unwrap_or(i64::MAX),
                senders: intent.senders.iter().filter_map(|sender| index.get(sender).copied()).collect(),
                other: intent.other.clone(),
            })
            .collect();
        Allocation {
            seq: i64::try_from(self.seq).unwrap_or(i64::MAX),
            settled_resource_version: self.settled.to_string(),
            senders: table.iter().map(ToString::to_string).collect(),
            pending,
            other: self.other.clone(),
        }
    }

    /// About how many bytes `pending` takes when rendered (F10).
    pub fn bytes(&self) -> usize {
        self.pending.values().map(Intent::bytes).sum()
    }

    /// How many more intents fit (F10).
    pub fn room(&self) -> usize {
        if self.bytes() >= MAX_BYTES { 0 } else { MAX_INTENTS.saturating_sub(self.pending.len()) }
    }
}

fn read_intent(entry: &PendingIntent, table: &[String], prefix: u8) -> Option<Intent> {
    let senders = entry
        .senders
        .iter()
        .map(|index| usize::try_from(*index).ok().and_then(|index| table.get(index)).map(|s| Sender::from(s.as_str())))
        .collect::<Option<BTreeSet<_>>>()?;
    Some(Intent {
        held: read_held(&entry.address, prefix)?,
        claim: ObjectKey::parse(&entry.claim)?,
        claim_uid: (!entry.claim_uid.is_empty()).then(|| entry.claim_uid.as_str().into())?,
        seq: u64::try_from(entry.seq).ok()?,
        senders,
        other: entry.other.clone(),
    })
}

/// An IPv6 block is written with its length, because the pool's may differ by the time it is read.
fn render_held(held: Held) -> String {
    format!("{}/{}", held.address, held.prefix)
}

fn read_held(text: &str, prefix: u8) -> Option<Held> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, length)) => (address, length.parse().ok()?),
        None => (text, prefix),
    };
    let address: IpAddr = parse::address(address).ok()?;
    Some(Held { address, prefix })
}

/// What a replica remembers of a pool name's record, whoever wrote it (F9).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The uid of the pool that the record was seen on.
    pub uid: Option<Uid>,
    /// The highest seq seen.
    pub seq: u64,
    /// The intents of that record.
    pub pending: BTreeMap<Uid, Intent>,
}

impl Memory {
    /// Compares a newer copy with what was seen before and remembers it, unless it is *lost*: missing, older, or on
    /// another pool of the same name. A lost record is not remembered; the next commit restores it.
    pub fn observe(&mut self, uid: &Uid, record: Option<&Record>) -> Verdict {
        let known = self.seq > 0 && !is_broken(Rule::LossNoticed);
        let same_pool = self.uid.as_ref() == Some(uid);
        match record {
            Some(record) if !known || (same_pool && record.seq >= self.seq) => {
                self.uid = Some(uid.clone());
                self.seq = record.seq;
                self.pending.clone_from(&record.pending);
                Verdict::Kept
            }
            None if !known => Verdict::Kept,
            _ => Verdict::Lost,
        }
    }

    /// The same for a replica that does not own the pool: what is lost is remembered until the owner has restored it.
    /// On another pool of the name, that is a record with a higher seq.
    pub fn follow(&mut self, uid: &Uid, record: Option<&Record>) {
        if self.observe(uid, record) == Verdict::Lost && record.is_some_and(|record| record.seq > self.seq) {
            self.adopt(uid, record);
        }
    }

    /// Takes a record over as the one that is continued, after it was restored.
    pub fn adopt(&mut self, uid: &Uid, record: Option<&Record>) {
        *self = Self::default();
        self.observe(uid, record);
    }

    /// The record that replaces a lost one: the union of both lists with a seq above both. Creates may be under way for
    /// all of them, so none is left out, not even where an address is then promised twice: neither of the two is carried
    /// out any more, and both wait for what may still arrive.
    pub fn restore(&self, found: Option<&Record>) -> Record {
        let mut record = found.cloned().unwrap_or_default();
        for (uid, intent) in self.pending.iter().filter(|_| !is_broken(Rule::LossRestored)) {
            match record.pending.get_mut(uid) {
                Some(found) if found.held == intent.held => {
                    found.senders.extend(intent.senders.iter().cloned());
                    found.seq = found.seq.max(intent.seq);
                }
                // Of one claim only one create can succeed: the later promise is the one to keep.
                Some(found) if found.seq > intent.seq => {}
                _ => drop(record.pending.insert(uid.clone(), intent.clone())),
            }
        }
        record.seq = record.seq.max(self.seq);
        record
    }
}

/// What [`Memory::observe`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The record continues what was seen.
    Kept,
    /// Somebody replaced, pruned or restored it (F9).
    Lost,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(address: &str, claim: &str, uid: &str, seq: u64, senders: &[&str]) -> (Uid, Intent) {
        let held = Held { address: address.parse().expect("address"), prefix: 24 };
        let claim = ObjectKey::new("ns", claim);
        let senders = senders.iter().map(|s| Sender::from(*s)).collect();
        (uid.into(), Intent { held, claim, claim_uid: uid.into(), seq, senders, other: Map::new() })
    }

    fn record(seq: u64, pending: impl IntoIterator<Item = (Uid, Intent)>) -> Record {
        Record { seq, settled: Version(7), pending: pending.into_iter().collect(), other: Map::new() }
    }

    #[test]
    fn what_is_rendered_reads_back_the_same() {
        let record =
            record(9, [intent("10.0.0.1", "a", "u1", 8, &["x", "y"]), intent("10.0.0.2", "b", "u2", 9, &["y"])]);
        let wire = record.render();
        assert_eq!(wire.senders, ["x", "y"]);
        assert_eq!(wire.pending[1].senders, [1]);
        assert_eq!(Record::read(&wire, 24), Ok(record));
    }

    #[test]
    fn a_damaged_record_is_refused_and_never_panics() {
        let good = record(3, [intent("10.0.0.1", "a", "u1", 3, &["x"])]).render();
        let damage: [fn(&mut Allocation); 6] = [
            |w| w.seq = -1,
            |w| w.pending[0].address = "10.0.0".into(),
            |w| w.pending[0].claim = "no-slash".into(),
            |w| w.pending[0].senders = vec![4],
            |w| w.pending[0].claim_uid.clear(),
            |w| w.pending.push(w.pending[0].clone()),
        ];
        for harm in damage {
            let mut wire = good.clone();
            harm(&mut wire);
            assert!(Record::read(&wire, 24).is_err(), "{wire:?}");
        }
    }

    #[test]
    fn a_missing_older_or_foreign_record_is_lost_and_its_intents_come_back() {
        let uid: Uid = "pool-1".into();
        let mut memory = Memory::default();
        assert_eq!(memory.observe(&uid, None), Verdict::Kept, "a new pool has no record");
        let seen = record(5, [intent("10.0.0.1", "a", "u1", 5, &["x"])]);
        assert_eq!(memory.observe(&uid, Some(&seen)), Verdict::Kept);
        assert_eq!(memory.observe(&uid, None), Verdict::Lost);
        let older = record(4, [intent("10.0.0.9", "z", "u9", 4, &["q"])]);
        assert_eq!(memory.observe(&uid, Some(&older)), Verdict::Lost);
        assert_eq!(memory.observe(&"pool-2".into(), Some(&record(6, []))), Verdict::Lost);
        let restored = memory.restore(Some(&older));
        assert_eq!(restored.seq, 5);
        assert_eq!(restored.pending.keys().map(|k| &**k).collect::<Vec<_>>(), ["u1", "u9"]);
    }

    #[test]
    fn whoever_does_not_own_the_pool_waits_for_the_owner_to_restore_a_lost_record() {
        let (old, new): (Uid, Uid) = ("pool-1".into(), "pool-2".into());
        let mut memory = Memory::default();
        memory.follow(&old, Some(&record(5, [intent("10.0.0.1", "a", "u1", 5, &["x"])])));
        for lost in [None, Some(record(4, [])), Some(record(5, []))] {
            memory.follow(&new, lost.as_ref());
            assert_eq!((memory.seq, memory.pending.len()), (5, 1), "{lost:?}");
        }
        memory.follow(&new, Some(&record(6, [])));
        assert_eq!((memory.uid.as_ref(), memory.seq, memory.pending.len()), (Some(&new), 6, 0));
    }

    #[test]
    fn what_is_put_back_leaves_no_intent_and_no_sender_out() {
        let uid: Uid = "pool-1".into();
        let mut memory = Memory::default();
        let both = [intent("10.0.0.1", "a", "u1", 5, &["x", "y"]), intent("10.0.0.2", "b", "u2", 4, &["x"])];
        memory.observe(&uid, Some(&record(5, both)));
        let older = [
            intent("10.0.0.1", "a", "u1", 2, &["x"]),
            intent("10.0.0.3", "b", "u2", 3, &["x"]),
            intent("10.0.0.1", "c", "u3", 1, &["z"]),
        ];
        let restored = memory.restore(Some(&record(3, older)));
        let senders = |uid: &str| restored.pending[uid].senders.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!((senders("u1"), restored.pending["u1"].seq), (vec!["x".to_owned(), "y".to_owned()], 5));
        assert_eq!(restored.pending["u2"].held.address.to_string(), "10.0.0.2", "the later promise");
        assert_eq!(restored.pending["u3"].held.address.to_string(), "10.0.0.1", "promised twice");
    }

    #[test]
    fn a_full_record_takes_no_more() {
        let many = (0..MAX_INTENTS).map(|n| intent("10.0.0.1", "a", &format!("u{n}"), 1, &["x"]));
        let full = record(1, many);
        assert!(full.bytes() < MAX_BYTES);
        assert_eq!(full.room(), 0);
        assert_eq!(record(1, []).room(), MAX_INTENTS);
    }
}
