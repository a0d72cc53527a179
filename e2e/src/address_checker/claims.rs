//! The claims' side: a claim that was served stays served with the same address, and none waits for too long.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;

use crate::scene::address_ref;

/// A claim, by its uid.
#[derive(Clone, Debug)]
struct Seen {
    name: String,
    since: Instant,
    served: Option<Instant>,
    reference: Option<String>,
    alive: bool,
    deleting: bool,
}

/// All claims that have been seen.
#[derive(Debug, Default)]
pub(super) struct Claims {
    seen: BTreeMap<String, Seen>,
    relisted: Option<Vec<DynamicObject>>,
    pub(super) lists: usize,
    pub(super) violations: Vec<String>,
}

impl Claims {
    pub(super) fn observe(&mut self, event: Event<DynamicObject>, now: Instant) {
        match event {
            Event::Init => self.relisted = Some(Vec::new()),
            Event::InitApply(claim) => self.relisted.get_or_insert_default().push(claim),
            Event::InitDone => {
                self.lists += 1;
                for seen in self.seen.values_mut() {
                    seen.alive = false;
                }
                for claim in self.relisted.take().unwrap_or_default() {
                    self.apply(&claim, now);
                }
            }
            Event::Apply(claim) => self.apply(&claim, now),
            Event::Delete(claim) => {
                if let Some(seen) = self.seen.get_mut(&claim.uid().unwrap_or_default()) {
                    seen.alive = false;
                }
            }
        }
    }

    fn apply(&mut self, claim: &DynamicObject, now: Instant) {
        let name = format!("{}/{}", claim.namespace().unwrap_or_default(), claim.name_any());
        let seen = self.seen.entry(claim.uid().unwrap_or_default()).or_insert_with(|| Seen {
            name,
            since: now,
            served: None,
            reference: None,
            alive: true,
            deleting: false,
        });
        seen.alive = true;
        seen.deleting = claim.metadata.deletion_timestamp.is_some();
        let reference = address_ref(claim);
        if let Some(before) = &seen.reference
            && reference != Some(before)
        {
            self.violations.push(format!("{} referred to {before} and then to {reference:?}", seen.name));
        }
        if let Some(reference) = reference {
            seen.reference = Some(reference.to_owned());
            seen.served.get_or_insert(now);
        }
    }

    /// The claims, by uid, that are served and not about to go; each with its name and the name of its address.
    pub(super) fn served(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let served = self.seen.iter().filter(|(_, seen)| seen.alive && !seen.deleting);
        served.filter_map(|(uid, seen)| Some((uid.as_str(), seen.name.as_str(), seen.reference.as_deref()?)))
    }

    /// Those that wait now, and those that waited for longer than `within` since they came or since `fault`, whichever
    /// was later.
    pub(super) fn waiting_and_late(&self, fault: Instant, within: Duration, now: Instant) -> (usize, Vec<String>) {
        let mut waiting = 0;
        let mut late = Vec::new();
        for seen in self.seen.values() {
            let waits = seen.served.is_none() && seen.alive && !seen.deleting;
            waiting += usize::from(waits);
            let until = if waits { Some(now) } else { seen.served };
            let waited = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(seen.since.max(fault)));
            if waited > within {
                let still = if waits { "waits still after" } else { "was served after" };
                late.push(format!("{} {still} {waited:.1?}", seen.name));
            }
        }
        (waiting, late)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(name: &str, reference: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "metadata": { "namespace": "ns", "name": name, "uid": name },
            "status": { "addressRef": { "name": reference } },
        }))
        .expect("a claim")
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn an_address_reference_that_changes_or_goes_is_found() {
        let now = Instant::now();
        let mut claims = Claims::default();
        claims.observe(Event::Apply(claim("a", &json!("a"))), now);
        claims.observe(Event::Apply(claim("a", &json!("a"))), now);
        assert_eq!(claims.violations, Vec::<String>::new());
        claims.observe(Event::Apply(claim("a", &json!("b"))), now);
        claims.observe(Event::Apply(claim("a", &Value::Null)), now);
        assert_eq!(
            claims.violations,
            ["ns/a referred to a and then to Some(\"b\")", "ns/a referred to b and then to None"]
        );
    }

    #[test]
    fn a_claim_may_wait_for_so_long_after_the_last_fault_or_its_creation() {
        let start = Instant::now();
        let mut claims = Claims::default();
        claims.observe(Event::Apply(claim("a", &Value::Null)), start);
        let fault = start + seconds(20);
        claims.observe(Event::Apply(claim("b", &Value::Null)), start + seconds(25));
        let found = |claims: &Claims, at| claims.waiting_and_late(fault, seconds(10), start + seconds(at));
        assert_eq!(found(&claims, 29), (2, vec![]));
        assert_eq!(found(&claims, 31), (2, vec!["ns/a waits still after 11.0s".to_owned()]));
        claims.observe(Event::Apply(claim("a", &json!("a"))), start + seconds(32));
        claims.observe(Event::Apply(claim("b", &json!("b"))), start + seconds(33));
        assert_eq!(found(&claims, 60), (0, vec!["ns/a was served after 12.0s".to_owned()]));
    }

    #[test]
    fn claims_that_go_are_not_waited_for() {
        let start = Instant::now();
        let mut claims = Claims::default();
        claims.observe(Event::Apply(claim("a", &Value::Null)), start);
        claims.observe(Event::Apply(claim("b", &Value::Null)), start);
        claims.observe(Event::Delete(claim("a", &Value::Null)), start);
        claims.observe(Event::Init, start);
        claims.observe(Event::InitDone, start);
        assert_eq!(claims.waiting_and_late(start, seconds(1), start + seconds(9)), (0, vec![]));
    }
}
