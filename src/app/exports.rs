//! Reads and checks the exports file, and finds the directories that it names.

use std::io;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::export::ExportId;
use crate::export::file::{self, ExportLine};
use crate::sys::durable;
use crate::telemetry::log::Chain;

/// Largest exports file that is read, in bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// Reads an exports file and prints what it means, for `berth exports check`. Blocks while host
/// names are looked up.
///
/// # Errors
/// The errors of the file, one per line.
pub fn check(path: &Path) -> Result<()> {
    for entry in read(path)? {
        directory(&entry)?;
        println!("{entry}");
    }
    Ok(())
}

/// Reads an exports file. Blocks while host names are looked up.
///
/// # Errors
/// The errors of the file, one per line.
pub(super) fn read(path: &Path) -> Result<Vec<ExportLine>> {
    let resolve =
        |host: &str| Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect());
    parse(path, resolve)
}

/// Returns the directories that an exports file names; none if it has errors. Does not look up host
/// names.
pub(super) fn directories(path: &Path) -> Vec<PathBuf> {
    let unresolved = |_: &str| Ok(vec![Ipv4Addr::UNSPECIFIED.into()]);
    let entries = parse(path, unresolved).unwrap_or_default();
    entries.into_iter().map(|entry| entry.into_export(ExportId(0)).dir).collect()
}

/// Returns the directory of an entry, with symbolic links resolved.
///
/// # Errors
/// The directory does not exist, or is not a directory.
pub(super) fn directory(entry: &ExportLine) -> Result<PathBuf> {
    let dir = entry.clone().into_export(ExportId(0)).dir;
    let dir = canonical(&dir).with_context(|| format!("line {}", entry.line))?;
    if !dir.is_dir() {
        bail!("line {}: {} is not a directory", entry.line, dir.display());
    }
    Ok(dir)
}

/// Returns an absolute path without symbolic links. Blocks.
///
/// # Errors
/// The directory does not exist, or cannot be reached.
pub(super) fn canonical(dir: &Path) -> Result<PathBuf> {
    dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))
}

fn parse(
    path: &Path,
    mut resolve: impl FnMut(&str) -> io::Result<Vec<IpAddr>>,
) -> Result<Vec<ExportLine>> {
    let name = path.display().to_string();
    let text = durable::read_named(path, FILE_MAX);
    let text = text.with_context(|| format!("cannot read {name}"))?;
    file::parse(&text, &name, &mut resolve).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(|error| Chain(error).to_string()).collect();
        anyhow::anyhow!(lines.join("\n"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directories_are_known_without_looking_up_names() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "/a one.invalid(rw) two.invalid\n/b *\n";
        std::fs::write(file.path(), text).unwrap();
        assert!(read(file.path()).unwrap_err().to_string().contains("one.invalid"));
        assert_eq!(directories(file.path()), [Path::new("/a"), Path::new("/b")]);
    }
}
