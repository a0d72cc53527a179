//! The report as text.

use std::fmt::Write as _;

use super::{Member, Report, Ring, State};

/// Shards without an owner that are named one by one.
const NAMED: usize = 32;

impl Report {
    /// As tables, for people.
    pub fn table(&self) -> String {
        if self.rings.is_empty() {
            return "no replica shares its work by Leases in this namespace (--leader-elect)\n".to_owned();
        }
        self.rings.iter().map(of_ring).collect::<Vec<_>>().join("\n")
    }
}

fn of_ring(ring: &Ring) -> String {
    let owned = ring.shards.iter().filter(|shard| shard.has_live_owner).count();
    let mut text = format!("ring {}: {owned} of {} shards have a live owner\n\n", ring.name, ring.shards.len());
    let header = ["MEMBER", "STATE", "SHARDS", "POOLS", "RENEWED"].map(str::to_owned);
    text += &aligned(std::iter::once(header).chain(ring.members.iter().map(of_member)));
    let orphans: Vec<String> = ring
        .shards
        .iter()
        .filter(|shard| !shard.has_live_owner)
        .map(|shard| match &shard.holder {
            Some(holder) => format!("{} (held by {holder})", shard.number),
            None => shard.number.to_string(),
        })
        .collect();
    if !orphans.is_empty() {
        let more = if orphans.len() > NAMED { ", …" } else { "" };
        let named = orphans.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        // Writing to a String does not fail.
        let _ = writeln!(text, "\nshards without a live owner: {named}{more}");
    }
    let pools: Vec<[String; 4]> = ring
        .shards
        .iter()
        .flat_map(|shard| shard.pools.iter().map(move |pool| (pool, shard)))
        .map(|(pool, shard)| {
            let holder = match &shard.holder {
                Some(holder) if shard.has_live_owner => holder.clone(),
                _ => "none".to_owned(),
            };
            [pool.clone(), shard.number.to_string(), holder, shard.epoch.to_string()]
        })
        .collect();
    if !pools.is_empty() {
        text.push('\n');
        let header = ["POOL", "SHARD", "OWNER", "EPOCH"].map(str::to_owned);
        text += &aligned(std::iter::once(header).chain(pools));
    }
    text
}

fn of_member(member: &Member) -> [String; 5] {
    let state = match member.state {
        State::Live => "live",
        State::Leaving => "leaving",
        State::Silent => "silent",
    };
    let renewed = member.seconds_since_renewal.map_or("never".to_owned(), |age| format!("{age} s ago"));
    [member.name.clone(), state.to_owned(), member.shards.to_string(), member.pools.to_string(), renewed]
}

/// Columns as wide as their widest cell, three spaces between them, none behind the last.
fn aligned<const N: usize>(rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = rows.collect();
    let widths: Vec<usize> =
        (0..N).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += cells.join("   ").trim_end();
        text.push('\n');
    }
    text
}
