//! What happens to the claims of one pool: the allocation record, the claim rules and the machine that steps.

pub mod claim;
pub mod key;
pub mod machine;
pub mod object;
pub mod record;
pub mod rule;
