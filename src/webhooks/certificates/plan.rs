//! What to do next about the certificate: on values, without a server and without a clock.

use std::time::Duration;

use jiff::Timestamp;

use super::stored::{Stored, Trusted};

/// Certificates begin this long before they are made: clocks of API servers may be behind.
pub const BACKDATED: Duration = Duration::from_hours(1);
/// API servers have taken in a configuration by then; they watch them.
pub const SETTLED: Duration = Duration::from_secs(3);
/// Every replica shows a new certificate long before that: it looks every few seconds.
const LONGEST_OVERLAP: Duration = Duration::from_hours(1);
/// An authority lasts as long as so many certificates.
const CERTIFICATES_PER_AUTHORITY: u32 = 4;

/// How long things last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    certificate: Duration,
}

impl Lives {
    /// For certificates that last so long.
    pub fn of(certificate: Duration) -> Self {
        Self { certificate }
    }

    /// Of a certificate.
    pub fn certificate(self) -> Duration {
        self.certificate
    }

    /// Of an authority.
    pub fn authority(self) -> Duration {
        self.certificate.saturating_mul(CERTIFICATES_PER_AUTHORITY)
    }

    /// How long an old authority is trusted after the new one has signed.
    fn overlap(self) -> Duration {
        (self.certificate / 2).min(LONGEST_OVERLAP)
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make an authority, and put it in front of these.
    NewAuthority(Vec<Trusted>),
    /// Make a certificate, signed by the first authority.
    NewCertificate,
    /// Trust these alone.
    Trust(Vec<Trusted>),
    /// Nothing, for now.
    Nothing,
}

/// The next step. `published`: for how long everybody who calls us has trusted the bundle as it is stored; `elsewhere`:
/// authorities of ours that somebody still trusts, or that were in the Secret before it was lost.
pub fn next(
    stored: &Stored,
    names: &[String],
    elsewhere: &[Trusted],
    published: Option<Duration>,
    now: Timestamp,
    lives: Lives,
) -> Step {
    let Some(authority) = stored.trusted.first().filter(|it| stored.can_sign && now < it.life.renewal()) else {
        let mut known: Vec<Trusted> = Vec::new();
        for trusted in stored.trusted.iter().chain(elsewhere).filter(|it| now < it.life.ends) {
            if !known.contains(trusted) {
                known.push(trusted.clone());
            }
        }
        return Step::NewAuthority(known);
    };
    let is_good = stored.leaf.as_ref().filter(|leaf| {
        leaf.signer == Some(0) && now < leaf.life.renewal() && names.iter().all(|name| leaf.names.contains(name))
    });
    let Some(leaf) = is_good else {
        // Shown before it is trusted, it would fail requests; the old one still does well.
        let is_settled = published.is_some_and(|published| published >= SETTLED);
        return if is_settled { Step::NewCertificate } else { Step::Nothing };
    };
    let overlaps_until = leaf.life.begins.checked_add(lives.overlap()).unwrap_or(Timestamp::MAX);
    if stored.trusted.len() > 1 && overlaps_until <= now {
        return Step::Trust(vec![authority.clone()]);
    }
    Step::Nothing
}
