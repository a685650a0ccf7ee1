//! Conversations with an API server: `claims` and `volumes` one object at a time, `election` about
//! the Lease, `cluster` the whole provisioner with one that lives.

mod claims;
mod cluster;
mod election;
mod support;
mod volumes;
