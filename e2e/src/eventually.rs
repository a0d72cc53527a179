//! Waits are predicates with a timeout, and a failure says what was seen instead.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a scenario waits for one thing. Long, because tests and compilers share two cores; a test that passes never
/// waits that long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks: quickly at first, then at ease.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// What a probe did not find: what it saw instead, for the person who reads the failure.
#[derive(Debug)]
pub struct NotYet(String);

impl NotYet {
    /// With what was seen instead.
    pub fn because(seen: impl Into<String>) -> Self {
        Self(seen.into())
    }
}

impl<E: std::fmt::Display> From<E> for NotYet {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Looks again and again until `probe` finds what it looks for.
pub async fn eventually<T, F, P>(what: &str, timeout: Duration, mut probe: F) -> Result<T>
where
    F: FnMut() -> P,
    P: Future<Output = Result<T, NotYet>>,
{
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match probe().await {
            Ok(found) => return Ok(found),
            Err(NotYet(seen)) if started.elapsed() > timeout => {
                bail!("waited {timeout:?} in vain until {what}; last seen: {seen}");
            }
            Err(NotYet(_)) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_says_what_was_awaited_and_what_was_seen() {
        let failure =
            eventually("the light is green", Duration::ZERO, || async { Err::<(), _>(NotYet::because("it is red")) })
                .await
                .expect_err("it never turns green")
                .to_string();
        assert!(failure.contains("until the light is green") && failure.contains("it is red"), "{failure}");
    }

    #[tokio::test]
    async fn it_looks_until_found() {
        let mut looks = 0;
        let found = eventually("it is there", Duration::from_secs(5), || {
            looks += 1;
            let look = looks;
            async move { if look == 3 { Ok(look) } else { Err(NotYet::because("nothing")) } }
        });
        assert_eq!(found.await.expect("found at the third look"), 3);
    }
}
