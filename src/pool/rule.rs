//! Rules of the allocation protocol that a test can break, one at a time, to show that the models would notice
//! (tests/model). A build without debug assertions, and so every release, has no such switch.

/// A rule, or a part of one (docs/sharding.md), that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// F1: a create is sent only after a commit listed the sender.
    ListedFirst,
    /// F1: nor is it sent long after that.
    SentInTime,
    /// F3: the store has reached the watermark before an address is chosen.
    FreshStore,
    /// F3: a LIST counts only for the copy of the pool that was read before it.
    CoveringList,
    /// F4: an address that an intent holds is not chosen.
    IntentsHold,
    /// F4: a claim that an intent names gets no other.
    OnePromise,
    /// F5: an intent is settled by answers, not by the sight of its IPAddress.
    SettledByAnswers,
    /// F5(a): a create without an answer keeps its intent.
    EveryCreateAnswered,
    /// F5(a): who is not the only sender does not drop an intent.
    SoleSender,
    /// F5(a): the watermark rises to the settled IPAddress.
    RaisedWatermark,
    /// F5(b): a drained intent is dropped only after a consistent look.
    LookAfterDrain,
    /// F5(b): a look is void when another create is sent or another sender listed after it began.
    VoidLook,
    /// F5(b): all other senders are drained, not one of them.
    EverySenderDrained,
    /// F5(b): the lock delay starts again when the intent changes.
    DelayStartsAgain,
    /// F5(c): who is listed again does not forget its creates that were never answered.
    EarlierCreatesCount,
    /// F5: nothing is sent once the commit that drops the intent may be taken.
    NothingAfterDrop,
    /// F7: a release does not free an address that still has an intent.
    ReleaseKeepsIntent,
    /// F7: an IPAddress of another claim of the name is released only after the server said which claim stands.
    ReleaseOwn,
    /// F8: a pool stays while it has intents.
    PoolStays,
    /// F9: a record that is missing or older is noticed.
    LossNoticed,
    /// F9: what is remembered of a lost record is put back.
    LossRestored,
}

#[cfg(debug_assertions)]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
}

/// Breaks this rule for everything that the calling thread does from now on; `None` mends it.
#[cfg(debug_assertions)]
pub fn set_broken(rule: Option<Rule>) {
    BROKEN.set(rule);
}

/// Whether a test broke this rule.
#[cfg(debug_assertions)]
pub(in crate::pool) fn is_broken(rule: Rule) -> bool {
    BROKEN.get() == Some(rule)
}

/// No rule can be broken.
#[cfg(not(debug_assertions))]
pub(in crate::pool) const fn is_broken(_: Rule) -> bool {
    false
}
