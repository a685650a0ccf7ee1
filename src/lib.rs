//! Berth: NFSv3 from user space, a volume for every claim.
#![warn(missing_docs)]

pub mod app;
pub mod config;
pub mod errno;
pub mod export;
pub mod fs;
pub mod mount;
pub mod nfs3;
pub mod portmap;
pub mod rpc;
pub mod state;
pub mod sys;
pub mod telemetry;
pub mod xdr;
