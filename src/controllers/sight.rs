//! What this replica sees of the cluster: whether it has seen everything once, and whether its watches live (O6).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::shared_view::SharedView;
use crate::k8s::watch::Pulse;
use crate::pool::key::Boot;

/// A watch is opened anew every minute: one that was not, and delivered nothing either, for this long is dead.
const FRESH: Duration = Duration::from_secs(90);

/// Shared by the watches, the router and whoever decides on ownership. A clone is the same one.
#[derive(Clone)]
pub struct Sight {
    synced: Arc<watch::Sender<bool>>,
    view: Arc<Mutex<Option<SharedView>>>,
    pulses: Arc<Mutex<BTreeMap<&'static str, Pulse>>>,
}

impl Default for Sight {
    fn default() -> Self {
        Self { synced: Arc::new(watch::Sender::new(false)), view: Arc::default(), pulses: Arc::default() }
    }
}

impl Sight {
    /// The pulse of the watch of this resource; it counts from now on.
    pub fn pulse(&self, resource: &'static str) -> Pulse {
        self.pulses.lock().unwrap_or_else(PoisonError::into_inner).entry(resource).or_default().clone()
    }

    /// Everything has been listed once.
    pub fn note_synced(&self) {
        self.synced.send_replace(true);
    }

    /// The view begins anew: whoever cannot see owns nothing.
    pub fn note_blind(&self) {
        self.synced.send_replace(false);
    }

    /// The view that the router fills from now on.
    pub fn show(&self, view: SharedView) {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Some(view);
    }

    /// The view, once everything has been listed.
    pub fn view(&self) -> Option<SharedView> {
        let view = self.view.lock().unwrap_or_else(PoisonError::into_inner).clone();
        view.filter(|_| *self.synced.borrow())
    }

    /// Whether and when that is so.
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// The resource whose watch has been silent for too long, if any has.
    pub fn stale(&self, now: Boot) -> Option<&'static str> {
        if !*self.synced.borrow() {
            return Some("everything");
        }
        let pulses = self.pulses.lock().unwrap_or_else(PoisonError::into_inner);
        pulses.iter().find(|(_, pulse)| pulse.age(now) > FRESH).map(|(resource, _)| *resource)
    }
}
