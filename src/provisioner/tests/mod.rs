//! Conversations with an API server: `claims` and `volumes` one object at a time, `orphans` about
//! what a crash leaves, `cost` about what many take, `tenants` about what people write into their
//! objects, `holder` about who has a volume, `upgrade` about what earlier versions left, `election`
//! about the Lease, `cluster` the whole provisioner with one that lives.

mod claims;
mod cluster;
mod cost;
mod election;
mod holder;
mod orphans;
mod support;
mod tenants;
mod upgrade;
mod volumes;

pub use support::{OURS, claim};
