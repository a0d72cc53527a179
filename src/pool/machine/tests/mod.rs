//! Tests of the machine of one pool, in a world of plain values.

mod fixtures;
mod server;
mod simulation;
mod world;
