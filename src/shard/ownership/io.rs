//! What goes into the ownership machine and what comes out of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::shard::lease::{Content, Identity, Lease, LeaseKey, Member};

/// A request of the machine, to tell replies apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpId(pub u64);

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing but time.
    Tick,
    /// All stores of this replica are filled (O6).
    Synced,
    /// Whether each watch was opened again or delivered lately (O6). Not fresh until said so.
    Fresh(bool),
    /// A watch saw a Lease.
    Observed(LeaseKey, Lease),
    /// A watch saw that a Lease is gone, in this version.
    Gone(LeaseKey, u64),
    /// A watch began again with a list of all Leases of the ring.
    Listed(Listing),
    /// The answer to a request; every request gets exactly one.
    Reply(OpId, Outcome),
    /// Work on a shard has ended after [`Effect::Stop`]: everything sent was answered, the records are flushed.
    Stopped(u16),
    /// A GET says that the Pod of this member with this uid does not exist any more (O3).
    PodGone(Member, String),
    /// The original's leader Lease as it was observed; `None` if there is none (O7).
    Leader(Option<Lease>),
    /// Whether another ring that serves the same claims goes first: this one then owns nothing.
    OtherRing(bool),
    /// The process is to end: hand everything over (O5).
    Stop,
}

/// All Leases of the ring at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The list's own resourceVersion.
    pub version: u64,
    /// What was in it.
    pub leases: BTreeMap<LeaseKey, Lease>,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The Lease as it is in the reply.
    Done(Lease),
    /// The answer to [`Effect::List`].
    Listed(Listing),
    /// The Lease was deleted.
    Deleted,
    /// 409: it exists already, or is not the one that was meant.
    Conflict,
    /// 404.
    NotFound,
    /// Any other refusal: nothing was written.
    Refused(String),
    /// A timeout, a broken connection, a 5xx: it may have been done, or may be done later.
    NoAnswer,
}

/// What to send. Bodies carry the uid: without it a PUT of a deleted Lease would create it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A consistent read (no resourceVersion).
    Get,
    /// POST.
    Create(Content),
    /// PUT with uid and resourceVersion.
    Put {
        /// `metadata.uid`.
        uid: String,
        /// `metadata.resourceVersion`.
        version: u64,
        /// The rest.
        content: Content,
    },
    /// DELETE with uid and resourceVersion as preconditions.
    Delete {
        /// `metadata.uid`.
        uid: String,
        /// `metadata.resourceVersion`.
        version: u64,
    },
}

/// Something to do, in the order given. Times are on the clock of `now`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a request, without retries, and give its reply back. `now` of the step counts as the time before the send:
    /// a request that could not be sent at once has to be answered with [`Outcome::NoAnswer`] instead.
    Request {
        /// Goes into the reply.
        id: OpId,
        /// For which Lease.
        key: LeaseKey,
        /// What.
        call: Call,
    },
    /// List all Leases of the ring, consistently (no resourceVersion).
    List {
        /// Goes into the reply.
        id: OpId,
    },
    /// Work may go on until then, on all shards, and not later (O1, O2).
    Valid {
        /// The new deadline, later than the one before.
        until: Duration,
    },
    /// Begin to work on a shard.
    Start {
        /// Which.
        shard: u16,
        /// Grows with every change of hands.
        epoch: u32,
        /// The deadline as [`Effect::Valid`] said it last.
        until: Duration,
    },
    /// Take nothing new for a shard, finish, flush, and say [`Event::Stopped`].
    Stop {
        /// Which.
        shard: u16,
    },
    /// An original led before: no new allocations until then, and not before a LIST (O7). Releases may go on.
    HoldAllocations {
        /// When the LIST may be sent.
        until: Duration,
    },
    /// Whether the lock on the leader Lease may be tried (O7). It may not until said so.
    Contend(bool),
    /// Give the leader Lease up, if it is ours.
    ReleaseLeader,
    /// End the process; nothing comes after this.
    Exit(Exit),
    /// Something that operators may want to know.
    Log(Fact),
}

/// Why the process has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was asked to, and everything is handed over.
    Left,
    /// It was asked to, and its Lease ran out before everything was handed over.
    LeftLate,
    /// O9: somebody deleted its member Lease.
    LeaseGone,
    /// O9: another run has its name.
    Replaced,
    /// O9: a Lease is older than it was before.
    HistoryWentBack,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Left => "stopped, everything handed over",
            Self::LeftLate => "stopped, but the member Lease ran out before everything was handed over",
            Self::LeaseGone => "the member Lease was deleted",
            Self::Replaced => "another process holds the member Lease",
            Self::HistoryWentBack => "a Lease is older than it was before: the API server's data was restored",
        })
    }
}

/// What happened, for logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// This replica is a member.
    Registered,
    /// The member Lease was not renewed in time: all work stops.
    Expired,
    /// Own renewals failed or were late: the silence of others does not count (O3).
    TimersRestarted,
    /// A member counts as dead (O3).
    MemberDead(Identity),
    /// A member that counted as dead has given a sign of life.
    MemberBack(Identity),
    /// A shard is ours.
    Took {
        /// Which.
        shard: u16,
        /// Its new epoch.
        epoch: u32,
    },
    /// Somebody else was quicker.
    LostRace(u16),
    /// Somebody else took a shard that we held, or its Lease is gone.
    Lost(u16),
    /// A shard was given up.
    Released(u16),
    /// The planned member did not take a free shard; handovers to it wait.
    Unwilling(Member),
    /// Whether the holder of the leader Lease lets us work (O7).
    Permitted(bool),
    /// The API server refused a request.
    Refused {
        /// For which Lease.
        key: Option<LeaseKey>,
        /// What it said.
        why: String,
    },
}
