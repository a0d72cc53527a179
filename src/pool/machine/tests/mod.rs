//! Tests of the machine of one pool, in a world of plain values.

mod adoption;
mod allocation;
mod claims;
mod cost;
mod fixtures;
mod hold;
mod news;
mod orphans;
mod pools;
mod record;
mod scenario;
mod server;
mod settling;
mod simulation;
mod strays;
mod world;
