//! ONC RPC version 2 (RFC 5531): records, calls, credentials, replies, the reply cache, limits.
//!
//! This module knows no program. A program implements [`Program`]: it classifies each call once,
//! and carries out one call at a time, synchronously. A call runs first on the thread that read it,
//! which must never block. A program that would have to block returns [`Outcome::Later`] before it
//! has changed anything, and the call runs again on a thread of the pool.
//!
//! ```text
//!   socket -> record -> message + auth -> Program::classify -> memory, reply cache, lane
//!                                                                 |
//!                                                   Program::call (Patience::None)
//!                                                                 | Outcome::Later
//!                                                                 v
//!                                     pool: Program::call (Patience::Blocking) <---+
//!                                             | Outcome::Pending  | Outcome::Wait  |
//!                                             v                   v                |
//!                                  Ready::write writes        Wake runs the call   |
//!                                  the results                again ---------------+
//! ```
//!
//! [`Program`]: program::Program
//! [`Outcome::Later`]: program::Outcome::Later

pub mod address;
pub mod auth;
pub mod message;
pub mod pending;
pub mod program;
pub mod record;
pub mod replay;
mod served;
pub mod service;
pub mod transport;
