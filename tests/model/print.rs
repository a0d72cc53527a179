//! A number for a state of a machine: machines are compared by what their `Debug` says, which is all of them.

use std::fmt::{Debug, Write};
use std::hash::{DefaultHasher, Hasher};

/// Hashes what is written to it.
#[derive(Default)]
struct Print(DefaultHasher);

impl Write for Print {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// The hash of a value's `Debug`.
pub(crate) fn print_of(value: impl Debug) -> u64 {
    let mut print = Print::default();
    write!(print, "{value:?}").expect("hashing does not fail");
    print.0.finish()
}
