//! System calls, thin and safe: the only module with `unsafe`.
//!
//! What rustix offers is used from there directly; here is what it lacks, and what must write into
//! memory that is not initialised.
#![allow(unsafe_code)]

pub mod socket;
