//! Limits of an exports file.

use crate::export::path;

/// Most errors that are reported for one file.
pub const ERRORS_MAX: usize = 50;

/// Most exports in one file.
pub const EXPORTS_MAX: usize = 10_000;

/// Most clients of one export: each call compares its client with all of them.
pub const CLIENTS_MAX: usize = 1_000;

/// Longest word, in bytes: the longest path with every byte escaped. It bounds error messages.
pub const WORD_MAX: usize = 4 * path::MAX;
