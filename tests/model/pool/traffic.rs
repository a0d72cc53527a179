//! Requests between replicas and the server, and how much may go wrong with them.

use std::sync::Arc;
use std::time::Duration;

use capi_ipam::pool::key::Sender;
use capi_ipam::pool::machine::{Action, OpId, Outcome};

#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) op: OpId,
    pub(crate) action: Arc<Action>,
    /// Carried out, and the answer is on its way.
    pub(crate) done: Option<Arc<Outcome>>,
    pub(crate) sent_at: Duration,
}

/// A request whose sender does not wait for it any more; it may still be carried out.
#[derive(Clone, Debug)]
pub(crate) struct Ghost {
    pub(crate) sender: Sender,
    pub(crate) action: Arc<Action>,
    pub(crate) sent_at: Duration,
}

/// How often things may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    /// Claims that users create.
    pub(crate) claims: u8,
    pub(crate) deletes: u8,
    /// Requests or answers that are lost or late.
    pub(crate) faults: u8,
    pub(crate) crashes: u8,
    /// IPAddresses that an operator takes away.
    pub(crate) strips: u8,
    /// Records that somebody prunes or replaces by an older copy.
    pub(crate) losses: u8,
    /// Pools that are deleted and created again.
    pub(crate) pools: u8,
    /// Alarms of machines.
    pub(crate) wakes: u8,
    /// Times that a quarter of the lock delay goes by at once.
    pub(crate) passes: u8,
}

/// Which requests take their time; all others are carried out and answered at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slow {
    pub(crate) lists: bool,
    pub(crate) looks: bool,
    pub(crate) deletes: bool,
}

/// What a request is about, as far as the model treats it differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Commit,
    Create,
    List,
    Look,
    Delete,
    Other,
}

pub(crate) fn kind_of(action: &Action) -> Kind {
    match action {
        Action::PutPoolStatus { .. } => Kind::Commit,
        Action::CreateAddress(_) => Kind::Create,
        Action::ListAddresses(_) => Kind::List,
        Action::GetAddress(_) => Kind::Look,
        Action::DeleteAddress { .. } | Action::PatchAddress { .. } => Kind::Delete,
        _ => Kind::Other,
    }
}

impl Slow {
    pub(super) fn is(self, kind: Kind) -> bool {
        match kind {
            Kind::Commit | Kind::Create => true,
            Kind::List => self.lists,
            Kind::Look => self.looks,
            Kind::Delete => self.deletes,
            Kind::Other => false,
        }
    }
}

pub(super) fn is_write(action: &Action) -> bool {
    !matches!(action, Action::GetPool | Action::GetClaim(_) | Action::GetAddress(_) | Action::ListAddresses(_))
}
