//! `berth manual`: prints pages of the manual.

use std::fmt::Write as _;
use std::io::{self, Write};

use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::manual::{PAGES, page};

/// Options of `berth manual`.
#[derive(Debug, Args)]
pub struct ManualArgs {
    /// Page to print; without it, the pages are listed
    #[arg(hide_possible_values = true, value_parser = topics())]
    pub topic: Option<String>,
}

fn topics() -> PossibleValuesParser {
    PAGES.iter().map(|page| page.topic).collect::<Vec<_>>().into()
}

/// Prints a page, or the list of pages.
///
/// # Errors
/// Standard output cannot be written. A pipe that its reader has closed is not an error.
pub fn print(args: &ManualArgs) -> io::Result<()> {
    let page = args.topic.as_deref().and_then(page);
    let text = page.map_or_else(list, |page| page.text.to_owned());
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

fn list() -> String {
    let mut text = String::from("Pages of the manual (berth manual TOPIC):\n\n");
    for page in PAGES {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:<16} {}", page.topic, page.about);
    }
    text
}
