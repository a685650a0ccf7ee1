//! What is wrong with an exports file, and where.

use std::error;
use std::fmt;

use thiserror::Error;

use crate::export::client::ClientError;
use crate::export::file::{CLIENTS_MAX, EXPORTS_MAX, WORD_MAX};
use crate::export::options::OptionError;
use crate::export::path::PathError;

/// One error of a file: `/etc/exports:3: unknown option "rww"`.
#[derive(Debug)]
pub struct Error {
    /// The file's name, as it was given.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong in a line.
#[derive(Error, Debug)]
pub enum Problem {
    /// The path cannot be exported.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A client is not understood or not found.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An option is not understood or not supported.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The path was exported by an earlier line.
    #[error("path is exported already, in line {0}")]
    SamePath(usize),
    /// The line has the client already.
    #[error("client {0} is listed twice")]
    SameClient(String),
    /// A path alone.
    #[error("no client; write * for everyone")]
    NoClient,
    /// Options that white space parts from their client, or that never had one.
    #[error("options {0:?} without a client; write client(options) in one word, * for everyone")]
    NobodysOptions(String),
    /// A client's options do not end with the word.
    #[error("options of {0:?} do not end in one ')'; no white space may be in them")]
    Parentheses(String),
    /// A quoted text has no end in its line.
    #[error("a quote is not closed")]
    Quote,
    /// A client or an option is not text.
    #[error("\"{}\" is not UTF-8", .0.escape_ascii())]
    NotText(Vec<u8>),
    /// A word is longer than any that makes sense.
    #[error("a word is longer than {WORD_MAX} bytes")]
    LongWord,
    /// More clients than are allowed.
    #[error("more than {CLIENTS_MAX} clients of one export; name their networks")]
    TooManyClients,
    /// More lines than are allowed.
    #[error("more than {EXPORTS_MAX} exports in one file")]
    TooManyExports,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.problem)
    }
}

/// The problem is in the message already, so what follows it in the chain is its own cause.
impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.problem.source()
    }
}
