//! Addresses, ranges, pools and the ledger of who holds what: values only.
//!
//! [`range::Range`] and [`set::Set`] are the arithmetic, [`pool::Pool`] is a validated spec, [`ledger::Ledger`]
//! answers which address is free, and [`overlap::Overlaps`] which pools have addresses in common. Nothing in here parses, waits, logs or looks at a clock.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod family;
pub mod ledger;
pub mod overlap;
pub mod pool;
pub mod range;
pub mod set;
mod span;
mod sweep;
