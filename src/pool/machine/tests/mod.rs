//! Tests of the machine of one pool, in a world of plain values.

mod allocation;
mod claims;
mod cost;
mod fixtures;
mod hold;
mod pools;
mod record;
mod server;
mod settling;
mod simulation;
mod world;
