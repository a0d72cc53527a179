//! Lines for the person who waits: on stderr, also while the test runner captures output.

use std::io::Write as _;

/// Writes one line. Written to the stream itself, because `eprintln!` is captured in tests, and whoever waits minutes
/// for a first build should see why.
pub fn say(line: impl AsRef<str>) {
    let mut stderr = std::io::stderr().lock();
    // A closed stderr is no reason to fail a test.
    let _ = writeln!(stderr, "e2e: {}", line.as_ref());
}
