//! What was told already: the same again is counted, and written once a minute.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::k8s::events::{News, Written};
use crate::pool::key::{Boot, Uid};

/// The same after a longer silence is a new Event.
const SILENCE: Duration = Duration::from_mins(10);
/// How often a count is written at most.
const WRITE_EVERY: Duration = Duration::from_mins(1);
/// Events that are remembered; the one that was silent for longest is forgotten first.
const MOST: usize = 1_024;

/// An Event is the same as another if it is about the same object and says the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Same {
    uid: Uid,
    reason: &'static str,
    note: String,
}

#[derive(Debug)]
struct Told {
    event: Written,
    /// How often it happened, and how much of that was written.
    count: i32,
    written: i32,
    last: Boot,
    written_at: Boot,
}

/// What to do about news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Telling {
    /// It is new.
    Create,
    /// It was counted.
    Counted,
}

/// The Events of the last minutes.
#[derive(Debug, Default)]
pub(super) struct Series {
    told: BTreeMap<Same, Told>,
}

impl Series {
    /// Takes in that something happened.
    pub(super) fn observe(&mut self, news: &News, now: Boot) -> Telling {
        match self.told.get_mut(&same(news)) {
            Some(told) if now.saturating_sub(told.last) < SILENCE => {
                told.count = told.count.saturating_add(1);
                told.last = now;
                Telling::Counted
            }
            _ => Telling::Create,
        }
    }

    /// A new Event was written.
    pub(super) fn created(&mut self, news: &News, event: Written, now: Boot) {
        if self.told.len() >= MOST
            && let Some(oldest) = self.told.iter().min_by_key(|(_, told)| told.last).map(|(same, _)| same.clone())
        {
            self.told.remove(&oldest);
        }
        self.told.insert(same(news), Told { event, count: 1, written: 1, last: now, written_at: now });
    }

    /// Counts that are to be written now; they count as written. What was silent for long is forgotten.
    pub(super) fn due(&mut self, now: Boot) -> Vec<(Written, i32)> {
        let mut due = Vec::new();
        for told in self.told.values_mut() {
            if told.count > told.written && now.saturating_sub(told.written_at) >= WRITE_EVERY {
                (told.written, told.written_at) = (told.count, now);
                due.push((told.event.clone(), told.count));
            }
        }
        self.told.retain(|_, told| told.count > told.written || now.saturating_sub(told.last) < SILENCE);
        due
    }

    /// The Event does not exist any more: the same again is a new one.
    pub(super) fn forget(&mut self, event: &Written) {
        self.told.retain(|_, told| told.event != *event);
    }
}

fn same(news: &News) -> Same {
    Same { uid: news.subject.uid.clone(), reason: news.reason, note: news.note.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::names::PoolKind;
    use crate::k8s::events::Subject;
    use crate::pool::key::PoolKey;

    const SECOND: Duration = Duration::from_secs(1);

    fn news(uid: &str, note: &str) -> News {
        let subject = Subject::pool(&PoolKey::referenced(PoolKind::InClusterIPPool, "ns", "p"), &uid.into());
        News { subject, warning: true, reason: "PoolExhausted", action: "Allocate", note: note.to_owned() }
    }

    fn written(name: &str) -> Written {
        Written { namespace: "ns".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn the_same_again_is_counted_and_written_once_a_minute() {
        let (mut series, start) = (Series::default(), 100 * SECOND);
        let full = news("u", "full");
        assert_eq!(series.observe(&full, start), Telling::Create);
        series.created(&full, written("p.1"), start);
        for i in 1..=30 {
            assert_eq!(series.observe(&full, start + i * SECOND), Telling::Counted);
            assert_eq!(series.due(start + i * SECOND), []);
        }
        assert_eq!(series.due(start + 60 * SECOND), [(written("p.1"), 31)]);
        assert_eq!(series.due(start + 300 * SECOND), [], "nothing new since");
    }

    #[test]
    fn another_object_another_sentence_and_a_long_silence_make_a_new_event() {
        let (mut series, start) = (Series::default(), 100 * SECOND);
        series.created(&news("u", "full"), written("p.1"), start);
        assert_eq!(series.observe(&news("later", "full"), start), Telling::Create);
        assert_eq!(series.observe(&news("u", "full of others"), start), Telling::Create);
        assert_eq!(series.observe(&news("u", "full"), start + SILENCE), Telling::Create);
        series.forget(&written("p.1"));
        assert_eq!(series.observe(&news("u", "full"), start), Telling::Create);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut series = Series::default();
        for i in 0..2_000_u32 {
            series.created(&news(&i.to_string(), "full"), written("p.1"), i * SECOND / 100);
        }
        assert_eq!(series.told.len(), MOST);
        assert_eq!(series.observe(&news("1999", "full"), 20 * SECOND), Telling::Counted, "the newest stay");
        series.due(Duration::from_hours(1));
        assert!(series.told.len() <= 1);
    }
}
