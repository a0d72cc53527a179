//! Where observations become decisions and decisions become writes.
