//! Logs, traces, metrics and the endpoints that show them.

pub mod logs;
