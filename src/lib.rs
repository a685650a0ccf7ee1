//! Berth: NFSv3 from user space, a volume for every claim.
#![warn(missing_docs)]

pub mod errno;
pub mod export;
pub mod fs;
pub mod mount;
pub mod portmap;
pub mod rpc;
pub mod sys;
pub mod xdr;
