//! Clients, watches and writes: the only way to the API server.
