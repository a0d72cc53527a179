//! The composition root: the only place that builds clients and starts tasks.
