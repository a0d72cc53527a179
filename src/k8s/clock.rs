//! The two clocks of the process: one that counts suspend, and the API server's.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use crate::pool::key::{Boot, Now};

/// Reads the clocks. Cheap to clone; all clones share what was learned of the server's clock.
#[derive(Clone)]
pub struct Clock {
    boot: Arc<dyn Fn() -> Boot + Send + Sync>,
    /// Server time minus boot time in milliseconds, as of the last reply; `i64::MIN` before the first one.
    offset: Arc<AtomicI64>,
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clock").field("now", &self.now()).finish()
    }
}

impl Clock {
    /// `CLOCK_BOOTTIME`, which goes on while the machine sleeps.
    pub fn boottime() -> Self {
        Self::of(|| {
            let time = clock_gettime(ClockId::Boottime);
            Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
        })
    }

    /// A clock that tests can set.
    pub fn of(boot: impl Fn() -> Boot + Send + Sync + 'static) -> Self {
        Self { boot: Arc::new(boot), offset: Arc::new(AtomicI64::new(i64::MIN)) }
    }

    /// Time since an arbitrary start.
    pub fn boot(&self) -> Boot {
        (self.boot)()
    }

    /// Both clocks. Before the first reply of a server its time is unknown and reads as the earliest: nothing that
    /// must have ended has ended.
    pub fn now(&self) -> Now {
        let boot = self.boot();
        let offset = self.offset.load(Ordering::Relaxed);
        let server = if offset == i64::MIN {
            Timestamp::MIN
        } else {
            Timestamp::from_millisecond(offset.saturating_add(millis(boot))).unwrap_or(Timestamp::MIN)
        };
        Now { boot, server }
    }

    /// Takes in the `Date` of a reply.
    pub fn server_says(&self, date: &str) {
        if let Ok(date) = jiff::fmt::rfc2822::parse(date) {
            let offset = date.timestamp().as_millisecond() - millis(self.boot());
            self.offset.store(offset, Ordering::Relaxed);
        }
    }
}

/// Until when something may be done (O2). It moves on while that is renewed; a clone is the same one.
#[derive(Clone, Debug)]
pub struct Deadline(Arc<AtomicU64>);

impl Deadline {
    /// It never passes (O8).
    pub fn never() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }

    /// It passes then, unless it is put off.
    pub fn at(end: Boot) -> Self {
        // Zero would mean that it was ended for good.
        Self(Arc::new(AtomicU64::new(nanos(end).max(1))))
    }

    /// Puts it off; never brings it nearer.
    pub fn put_off(&self, end: Boot) {
        let later = |known| (known != ENDED).then(|| nanos(end).max(known));
        // Nothing to do about one that was ended.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }

    /// It is over at once, whatever was said before or is said later.
    pub fn end(&self) {
        self.0.store(ENDED, Ordering::Relaxed);
    }

    /// Whether it is over.
    pub fn has_passed(&self, now: Boot) -> bool {
        nanos(now) >= self.0.load(Ordering::Relaxed)
    }
}

/// See [`Deadline::end`].
const ENDED: u64 = 0;

fn nanos(boot: Boot) -> u64 {
    u64::try_from(boot.as_nanos()).unwrap_or(u64::MAX - 1)
}

fn millis(boot: Boot) -> i64 {
    i64::try_from(boot.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_is_put_off_passes_later() {
        let second = Duration::from_secs(1);
        let deadline = Deadline::at(5 * second);
        assert!(!deadline.has_passed(Duration::from_millis(4_999)));
        assert!(deadline.has_passed(5 * second));
        deadline.clone().put_off(7 * second);
        deadline.put_off(6 * second);
        assert!(!deadline.has_passed(6 * second));
        assert!(deadline.has_passed(7 * second));
        let begun = Deadline::at(Duration::ZERO);
        begun.put_off(second);
        assert!(!begun.has_passed(Duration::ZERO));
        assert!(!Deadline::never().has_passed(Duration::MAX));
        deadline.end();
        deadline.put_off(9 * second);
        assert!(deadline.has_passed(8 * second));
    }

    #[test]
    fn server_time_goes_on_from_the_last_reply() {
        let boot = Arc::new(std::sync::Mutex::new(Duration::from_secs(100)));
        let clock = Clock::of({
            let boot = boot.clone();
            move || *boot.lock().expect("no panic")
        });
        assert_eq!(clock.now().server, Timestamp::MIN);
        clock.server_says("Sun, 22 Nov 2026 10:00:00 GMT");
        *boot.lock().expect("no panic") += Duration::from_secs(90);
        assert_eq!(clock.now().server, "2026-11-22T10:01:30Z".parse().expect("a time"));
        clock.server_says("nonsense");
        assert_eq!(clock.now().server, "2026-11-22T10:01:30Z".parse().expect("a time"));
    }
}
