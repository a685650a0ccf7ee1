//! Conversations with an API server. `claims` and `volumes`: one object at a time. `orphans`: what a
//! crash leaves. `cost`: what many objects cost. `tenants`: what users write into their objects.
//! `holder`: who uses a volume. `upgrade`: what earlier versions left. `election`: the Lease.
//! `cluster`: the whole provisioner with a fake API server.

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
