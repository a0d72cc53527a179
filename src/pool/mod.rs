//! What happens to the claims of one pool: the allocation record, the claim rules and the machine that steps.
