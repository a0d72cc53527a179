//! Integration tests: the program's parts against an in-memory API server.

mod apiserver;
mod apiserver_rules;
mod app;
