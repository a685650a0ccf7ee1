//! Errors in an exports file, with their line.

use std::error;
use std::fmt;

use thiserror::Error;

use crate::export::client::ClientError;
use crate::export::limits::{CLIENTS_MAX, EXPORTS_MAX, WORD_MAX};
use crate::export::options::OptionError;
use crate::export::path::PathError;

/// One error: `/etc/exports:3: unknown option "rww"`.
#[derive(Debug)]
pub struct ExportsFileError {
    /// The file's name, as the caller gave it.
    pub file: String,
    /// The line number, from 1.
    pub line: usize,
    /// The problem in that line.
    pub problem: LineProblem,
}

/// A problem in a line.
#[derive(Error, Debug)]
pub enum LineProblem {
    /// The path cannot be exported.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A client does not parse or does not resolve.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An option is unknown or not supported.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// An earlier line exports the path.
    #[error("path is already exported in line {0}; list all its clients there")]
    SamePath(usize),
    /// The line lists the client twice.
    #[error("client {0} is listed twice; give all its options in one word")]
    SameClient(String),
    /// A path without clients.
    #[error("no client; write * to export to every client")]
    NoClient,
    /// Options separated from their client by white space, or without one.
    #[error("options {0:?} have no client; write client(options) without white space between them")]
    NobodysOptions(String),
    /// A client's options do not end with the word.
    #[error("options of {0:?} do not end in one ')'; remove white space and text after the ')'")]
    Parentheses(String),
    /// A quote is not closed in its line.
    #[error("a quote is not closed in its line")]
    Quote,
    /// A client or an option is not UTF-8.
    #[error("\"{}\" is not UTF-8", .0.escape_ascii())]
    NotText(Vec<u8>),
    /// A word is too long.
    #[error("a word is longer than {WORD_MAX} bytes")]
    LongWord,
    /// An export has more than [`CLIENTS_MAX`] clients.
    #[error("more than {CLIENTS_MAX} clients of one export; list networks instead of hosts")]
    TooManyClients,
    /// The file has more than [`EXPORTS_MAX`] exports.
    #[error("more than {EXPORTS_MAX} exports in one file")]
    TooManyExports,
}

impl fmt::Display for ExportsFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.problem)
    }
}

/// The message includes the problem, so the source is the problem's own cause.
impl error::Error for ExportsFileError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.problem.source()
    }
}
