//! The certificate that the replicas make themselves, where nobody gives them one.
//!
//! An authority and a certificate are kept in a Secret. Every replica shows what is there; the elected leader renews it,
//! and writes the authority into the webhook configurations and CRDs. What to do next is decided on values ([`plan`]);
//! [`keeper`] does it.
//!
//! **Order:** nothing is shown that the API servers do not trust yet. A new authority is first added to the bundle, then
//! the bundle is written to all who call us, then a certificate is signed by it, and only when every replica has shown
//! that for a while the old authority goes.

pub mod keeper;
mod make;
pub mod plan;
pub mod stored;
#[cfg(test)]
mod tests;
mod trust;
