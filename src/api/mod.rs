//! The provider's and Cluster API's objects as they are on the wire, and their way into domain values.

pub mod parse;
