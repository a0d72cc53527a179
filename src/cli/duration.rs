//! Durations as Go writes them (`15s`, `1m30s`, `1.5h`), because manifests for the flags exist in that syntax.

use std::time::Duration;

/// Go holds a duration in an `i64` of nanoseconds; longer ones are refused, as Go does.
const MAX_NANOS: u128 = i64::MAX as u128;

/// Digits of a fraction that can still change a whole nanosecond of the largest unit; more are checked and dropped.
const MAX_FRACTION_DIGITS: u32 = 18;

/// Why a text is no duration that we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum DurationError {
    /// Not made of numbers and units.
    #[error("is not a duration such as 15s, 1m30s or 100ms")]
    Malformed,
    /// A number without a unit; only `0` needs none.
    #[error("lacks a unit: write 15s, 1m30s or 100ms")]
    MissingUnit,
    /// A unit that Go does not know.
    #[error("has an unknown unit: use ns, us, ms, s, m or h")]
    UnknownUnit,
    /// Below zero.
    #[error("must not be negative")]
    Negative,
    /// Zero where that would never let anything happen.
    #[error("must be longer than zero")]
    Zero,
    /// Longer than about 292 years.
    #[error("is too long")]
    TooLong,
}

/// Reads a duration of zero or more, in the grammar of Go's `time.ParseDuration`.
pub(super) fn parse(text: &str) -> Result<Duration, DurationError> {
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let nanos = if unsigned == "0" { 0 } else { sum_of_terms(unsigned)? };
    if negative && nanos > 0 {
        return Err(DurationError::Negative);
    }
    // The sum is at most MAX_NANOS, which fits.
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| DurationError::TooLong)
}

/// Like [`parse`], but refuses zero.
pub(super) fn parse_positive(text: &str) -> Result<Duration, DurationError> {
    match parse(text)? {
        Duration::ZERO => Err(DurationError::Zero),
        duration => Ok(duration),
    }
}

fn sum_of_terms(text: &str) -> Result<u128, DurationError> {
    if text.is_empty() {
        return Err(DurationError::Malformed);
    }
    let mut rest = text;
    let mut sum = 0_u128;
    while !rest.is_empty() {
        let (nanos, after) = term(rest)?;
        sum = sum.checked_add(nanos).filter(|sum| *sum <= MAX_NANOS).ok_or(DurationError::TooLong)?;
        rest = after;
    }
    Ok(sum)
}

/// One number with its unit, in nanoseconds, and the text behind it.
fn term(text: &str) -> Result<(u128, &str), DurationError> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(behind) => split_digits(behind),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(DurationError::Malformed);
    }
    let unit_end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let unit = nanos_per(unit)?;
    let whole = whole.bytes().try_fold(0_u128, |sum, digit| {
        // Checked at every digit, so that no text is long enough to overflow.
        Some(sum * 10 + u128::from(digit - b'0')).filter(|sum| *sum <= MAX_NANOS)
    });
    let whole = whole.ok_or(DurationError::TooLong)? * unit;
    Ok((whole + nanos_of_fraction(fraction, unit), rest))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

fn nanos_per(unit: &str) -> Result<u128, DurationError> {
    Ok(match unit {
        "" => return Err(DurationError::MissingUnit),
        "ns" => 1,
        // U+00B5, the micro sign, and U+03BC, the Greek letter: Go takes both.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(DurationError::UnknownUnit),
    })
}

/// Rounds down to whole nanoseconds.
fn nanos_of_fraction(digits: &str, unit: u128) -> u128 {
    let mut scale = 1_u128;
    let mut value = 0_u128;
    for digit in digits.bytes().take(MAX_FRACTION_DIGITS as usize) {
        value = value * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    value * unit / scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_of_manifests_are_read() {
        for (text, millis) in [
            ("0", 0),
            ("-0", 0),
            ("0s", 0),
            ("15s", 15_000),
            ("+15s", 15_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("100ms", 100),
            (".5s", 500),
            ("1.s", 1_000),
            ("2h45m30.5s", 9_930_500),
            ("1000us", 1),
            ("1000\u{b5}s", 1),
            ("1000\u{3bc}s", 1),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_its_reason() {
        for (text, error) in [
            ("", DurationError::Malformed),
            ("-", DurationError::Malformed),
            ("s", DurationError::Malformed),
            (".s", DurationError::Malformed),
            ("1m ", DurationError::UnknownUnit),
            (" 1m", DurationError::Malformed),
            ("15", DurationError::MissingUnit),
            ("1m30", DurationError::MissingUnit),
            ("1d", DurationError::UnknownUnit),
            ("1S", DurationError::UnknownUnit),
            ("--1s", DurationError::Malformed),
            ("-1s", DurationError::Negative),
            ("2562048h", DurationError::TooLong),
            ("9223372036854775808ns", DurationError::TooLong),
            ("99999999999999999999999999999999999999999999h", DurationError::TooLong),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
        assert_eq!(parse("9223372036854775807ns"), Ok(Duration::from_nanos(9_223_372_036_854_775_807)));
    }

    #[test]
    fn zero_is_refused_where_asked() {
        assert_eq!(parse_positive("0"), Err(DurationError::Zero));
        assert_eq!(parse_positive("1ns"), Ok(Duration::from_nanos(1)));
    }

    proptest! {
        #[test]
        fn a_sum_of_terms_is_the_sum_of_their_values(
            hours in 0..20_000_u64, minutes in 0..100_000_u64, seconds in 0..100_000_u64, nanos in 0..2_000_000_000_u64,
        ) {
            let text = format!("{hours}h{minutes}m{seconds}s{nanos}ns");
            let expected = Duration::from_secs(hours * 3600 + minutes * 60 + seconds) + Duration::from_nanos(nanos);
            prop_assert_eq!(parse(&text), Ok(expected));
        }

        #[test]
        fn a_decimal_number_of_seconds_is_exact_to_the_nanosecond(seconds in 0..9_000_000_000_u64, nanos in 0..1_000_000_000_u64) {
            prop_assert_eq!(parse(&format!("{seconds}.{nanos:09}s")), Ok(Duration::new(seconds, u32::try_from(nanos).expect("below a second"))));
        }

        #[test]
        fn no_text_panics_or_exceeds_what_go_can_hold(text in "[-+.0-9smhunµμd ]{0,60}") {
            if let Ok(duration) = parse(&text) {
                prop_assert!(duration.as_nanos() <= MAX_NANOS);
            }
        }

        #[test]
        fn a_sign_only_ever_turns_the_answer_negative(text in "[0-9]{1,12}(ns|us|ms|s)") {
            match (parse(&text), parse(&format!("-{text}"))) {
                (Ok(Duration::ZERO), negated) => prop_assert_eq!(negated, Ok(Duration::ZERO)),
                (Ok(_), negated) => prop_assert_eq!(negated, Err(DurationError::Negative)),
                (Err(error), negated) => prop_assert_eq!(negated, Err(error)),
            }
        }
    }
}
