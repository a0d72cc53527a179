//! What a claim costs in CPU time; a measurement to look at, not a test.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::fixtures::{claim, pool, pool_key};
use super::server::Server;
use super::world::{ADOPTION_GRACE, LOCK_DELAY, ORPHAN_GRACE};
use crate::api::capi::CapiVersion;
use crate::pool::key::Now;
use crate::pool::machine::{Config, Effect, Input, Machine};
use crate::pool::object::PoolView;
use crate::pool::record::Memory;

/// One machine, a server that answers at once, and a watch that follows at once: a step for every one of these.
struct Bench {
    server: Server,
    machine: Machine,
    effects: VecDeque<Effect>,
    spent: Duration,
    steps: usize,
    seen: [usize; 3],
    time: Duration,
}

impl Bench {
    #[expect(clippy::disallowed_methods, reason = "it measures real time")]
    fn step(&mut self, inputs: Vec<Input>) {
        let now = Now { boot: self.time, server: self.server.now() };
        let start = Instant::now();
        let step = self.machine.step(inputs, now);
        self.spent += start.elapsed();
        self.steps += 1;
        self.effects.extend(step.effects);
    }

    fn watch(&mut self) {
        let [pools, claims, addresses] = self.seen;
        let mut inputs = Vec::new();
        inputs.extend(self.server.pool_log[pools..].iter().map(|(_, pool)| Input::Pool {
            view: pool.as_ref().map(|pool| Box::new(PoolView::clone(pool))),
            covered: None,
        }));
        let claims = self.server.claim_log[claims..].iter();
        inputs.extend(claims.map(|(_, (key, claim))| Input::Claim(key.clone(), claim.clone())));
        for (version, (key, address)) in &self.server.address_log[addresses..] {
            inputs.push(Input::Address(key.clone(), address.clone(), *version));
            inputs.push(Input::Store(*version));
        }
        self.seen = [self.server.pool_log.len(), self.server.claim_log.len(), self.server.address_log.len()];
        if !inputs.is_empty() {
            self.step(inputs);
        }
    }

    fn drain(&mut self) {
        while let Some(effect) = self.effects.pop_front() {
            let outcome = self.server.serve(&"me".into(), &effect.action);
            self.step(vec![Input::Reply(effect.op, outcome)]);
            self.watch();
            while self.effects.is_empty() && self.machine.wake_at().is_some_and(|at| at <= self.time) {
                self.step(Vec::new());
            }
        }
    }
}

#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stderr, reason = "it is there to print")]
fn what_a_claim_costs() {
    for claims in [4_000_u32, 50_000] {
        let mut server = Server::default();
        server.unchecked = true;
        server.put_pool(pool("10.0.0.0-10.0.255.255"));
        for n in 0..claims {
            server.put_claim(claim(&format!("c{n:06}")).created_after(i64::from(n % 1_000)));
        }
        let config = Config {
            me: "me".into(),
            lock_delay: LOCK_DELAY,
            adoption_grace: ADOPTION_GRACE,
            orphan_grace: Some(ORPHAN_GRACE),
            version: CapiVersion::V1Beta2,
        };
        let machine = Machine::new(pool_key(), config, Memory::default());
        let mut bench = Bench {
            server,
            machine,
            effects: VecDeque::new(),
            spent: Duration::ZERO,
            steps: 0,
            seen: [0; 3],
            time: Duration::from_secs(1),
        };
        bench.step(vec![Input::Store(bench.server.version())]);
        let view = bench.server.pool.as_ref().map(|pool| Box::new(PoolView::clone(pool)));
        let covered = Some(bench.server.version());
        bench.step(vec![Input::Pool { view, covered }]);
        bench.seen[0] = bench.server.pool_log.len();
        bench.watch();
        bench.drain();
        assert_eq!(bench.server.addresses.len(), usize::try_from(claims).unwrap_or(0));
        let per_claim = bench.spent / claims;
        eprintln!(
            "{claims} claims: {per_claim:?} each, {} steps, {:?} a step",
            bench.steps,
            bench.spent / u32::try_from(bench.steps).unwrap_or(1)
        );
    }
}
