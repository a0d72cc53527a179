//! The provider's and Cluster API's objects as they are on the wire, and their way into domain values.
//!
//! Everything that is read is lenient: whatever an API server can store decodes, so that one odd object never ends a
//! list or a watch. What must hold of an object is checked later, and by name of the field.

pub mod address;
pub mod capi;
pub mod conditions;
pub mod conversion;
mod crd;
pub mod lease;
pub mod lenient;
pub mod names;
pub mod parse;
pub mod pools;
pub mod status;
pub mod v1alpha1;
pub mod v1alpha2;

pub use crd::{crd_yaml, crds, crds_yaml};
