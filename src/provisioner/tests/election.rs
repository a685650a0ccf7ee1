//! The Lease.
