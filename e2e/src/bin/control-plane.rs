//! Builds the control plane of the tests into the cache, so that the first test does not wait for it.
#![expect(clippy::print_stdout, reason = "a program for people")]

use anyhow::Result;
use e2e::control_plane;

fn main() -> Result<()> {
    for path in control_plane::prepare()? {
        println!("{}", path.display());
    }
    Ok(())
}
