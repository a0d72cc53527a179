//! Addresses, ranges, pools and the ledger of who holds what: values only.
