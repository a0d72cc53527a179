//! What is known of a claim whose IPAddress is gone (C3).

use std::time::Duration;

use super::OpId;
use crate::pool::key::Boot;

/// How long a claim may take to follow its IPAddress: `clusterctl move` deletes one object after the other.
pub(super) const MOVED_WITHIN: Duration = Duration::from_mins(1);

/// Whether it is sure that a claim lives which once had an IPAddress: the watch of claims may lag behind that of
/// addresses, and a claim that is being released must not be given another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sure {
    No,
    Asking(OpId),
    Yes,
}

/// `clusterctl move` takes an IPAddress away a moment before its claim: it is not made again at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    No,
    Seen,
    /// If the claim still stands by then, the move has failed.
    Until(Boot),
}
