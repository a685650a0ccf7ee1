//! A snapshot of the exports, indexed by id and by path.
//!
//! A table is immutable and read without a lock. A new table shares the unchanged exports with the
//! old one.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use thiserror::Error;

use crate::export::{ClientPattern, Export, ExportId, ExportTable, path};

/// Why exports cannot form a table.
#[derive(PartialEq, Eq, Error, Debug)]
pub enum TableError {
    /// Two exports have one id.
    #[error("exports {} and {} have the same id", first.escape_ascii(), second.escape_ascii())]
    SameId {
        /// The path of one.
        first: Vec<u8>,
        /// The path of the other.
        second: Vec<u8>,
    },
    /// Two exports have one path.
    #[error("path {} is exported twice", .0.escape_ascii())]
    SamePath(Vec<u8>),
    /// A path is not in the form of [`path::normalise`], so clients could not mount it.
    #[error("export path {} is not absolute and normalised", .0.escape_ascii())]
    Path(Vec<u8>),
}

/// The current exports. Readers take no lock; changes are serialized.
#[derive(Debug, Default)]
pub struct Exports {
    now: ArcSwap<ExportTable>,
    change: Mutex<()>,
}

impl Exports {
    /// Returns the current table.
    pub fn load(&self) -> Guard<Arc<ExportTable>> {
        self.now.load()
    }

    /// Removes the exports `gone` and adds `new` in one atomic step. Ids that are not exported are
    /// ignored. Blocks while another change is in progress.
    ///
    /// # Errors
    /// The resulting exports cannot form a table. Nothing has changed.
    pub fn change(
        &self,
        gone: &[ExportId],
        new: impl IntoIterator<Item = Arc<Export>>,
    ) -> Result<(), TableError> {
        let _change = self.change.lock();
        let old = self.now.load();
        let gone: HashSet<_> = gone.iter().collect();
        let stay = old.iter().filter(|export| !gone.contains(&export.id)).cloned();
        self.now.store(Arc::new(ExportTable::new(stay.chain(new))?));
        Ok(())
    }
}

impl ExportTable {
    /// Builds a table. To keep exports of another table, pass `old.iter().cloned()`.
    ///
    /// # Errors
    /// Two exports share an id or a path, or a path is not normal.
    pub fn new<E: Into<Arc<Export>>>(
        exports: impl IntoIterator<Item = E>,
    ) -> Result<Self, TableError> {
        let mut table = Self::default();
        for export in exports {
            table.add(export.into())?;
        }
        Ok(table)
    }

    fn add(&mut self, export: Arc<Export>) -> Result<(), TableError> {
        if path::normalise(&export.path).as_ref() != Ok(&export.path) {
            return Err(TableError::Path(export.path.clone()));
        }
        if let Some(other) = self.by_id.insert(export.id, Arc::clone(&export)) {
            let (first, second) = (other.path.clone(), export.path.clone());
            return Err(TableError::SameId { first, second });
        }
        if self.by_path.insert(export.path.clone(), Arc::clone(&export)).is_some() {
            return Err(TableError::SamePath(export.path.clone()));
        }
        self.exports.push(export);
        Ok(())
    }

    /// Returns the export that a file handle names.
    pub fn get(&self, id: ExportId) -> Option<&Arc<Export>> {
        self.by_id.get(&id)
    }

    /// Whether an export has exactly this path.
    pub fn has_path(&self, path: &[u8]) -> bool {
        self.by_path.contains_key(path)
    }

    /// Returns the export that contains the mount path `path`, the innermost if several do, and the
    /// rest of the path inside it, without slashes at its ends.
    ///
    /// A path with `..` is in no export: which one it is in would depend on symbolic links.
    pub fn locate<'p>(&self, path: &'p [u8]) -> Option<(&Arc<Export>, &'p [u8])> {
        if !path.starts_with(b"/") || path.len() > path::MAX {
            return None;
        }
        let mut rest = path::trim(path);
        let mut outer = Vec::with_capacity(path.len());
        let mut found = self.by_path.get(b"/".as_slice()).map(|export| (export, rest));
        while !rest.is_empty() {
            let (name, below) = path::split(rest);
            rest = below;
            match name {
                b".." => return None,
                b"." => continue,
                _ => outer.push(b'/'),
            }
            outer.extend_from_slice(name);
            found = self.by_path.get(&outer).map(|export| (export, rest)).or(found);
        }
        found
    }

    /// Whether an export lists a client by more than `*`. Searches all exports.
    pub fn lists(&self, client: IpAddr) -> bool {
        let lists =
            |pattern: &ClientPattern| *pattern != ClientPattern::Anyone && pattern.contains(client);
        self.exports.iter().any(|export| export.clients.iter().any(|client| lists(&client.pattern)))
    }

    /// All exports, in the order in which they were added.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Export>> {
        self.exports.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{ClientEntry, Ports};

    fn export(id: u64, path: &str) -> Export {
        let sole = Export::sole(ExportId(id), path.into(), Ports::Any);
        Export { path: path.as_bytes().to_vec(), ..sole }
    }

    #[test]
    fn a_path_is_in_the_innermost_export() {
        let inner = [export(2, "/a/b"), export(1, "/a"), export(3, "/a/b/c/d"), export(4, "/ab")];
        let inner = ExportTable::new(inner).unwrap();
        let rooted = ExportTable::new([export(1, "/a"), export(9, "/")]).unwrap();
        let check = |table: &ExportTable, path: &str, expected: Option<(u64, &str)>| {
            let found = table.locate(path.as_bytes());
            let found = found.map(|(export, rest)| (export.id.0, str::from_utf8(rest).unwrap()));
            assert_eq!(found, expected, "{path}");
        };
        check(&inner, "/a", Some((1, "")));
        check(&inner, "/a/", Some((1, "")));
        check(&inner, "//a//x/y/", Some((1, "x/y")));
        check(&inner, "/a/b", Some((2, "")));
        check(&inner, "/a/./b", Some((2, "")));
        check(&inner, "/a/b/c", Some((2, "c")));
        check(&inner, "/a/b/c/d/e", Some((3, "e")));
        check(&inner, "/a/bc", Some((1, "bc")));
        check(&inner, "/ab", Some((4, "")));
        check(&inner, "/abc", None);
        check(&inner, "/", None);
        check(&inner, "", None);
        check(&inner, "a", None);
        check(&inner, "/a/../ab", None);
        check(&inner, "/a/..", None);
        check(&rooted, "/", Some((9, "")));
        check(&rooted, "//", Some((9, "")));
        check(&rooted, "/x/a", Some((9, "x/a")));
        check(&rooted, "/a/x", Some((1, "x")));
        check(&rooted, "/x/../a", None);
        check(&rooted, &format!("/{}", "x".repeat(path::MAX)), None);
    }

    #[test]
    fn an_export_is_found_by_id() {
        let table = ExportTable::new([export(1, "/a"), export(2, "/b")]).unwrap();
        let next = ExportTable::new(table.iter().cloned().chain([export(3, "/c").into()])).unwrap();
        assert_eq!(next.iter().len(), 3);
        assert!(Arc::ptr_eq(next.get(ExportId(2)).unwrap(), table.get(ExportId(2)).unwrap()));
        assert_eq!(next.get(ExportId(3)).unwrap().path, b"/c");
        assert_eq!(table.get(ExportId(3)), None);
    }

    #[test]
    fn a_client_listed_by_host_or_network_is_listed_and_others_are_not() {
        let mut listed = export(1, "/a");
        let options = listed.clients[0].options;
        let net = ClientPattern::Net("10.1.0.0/16".parse().unwrap());
        listed.clients.push(ClientEntry { pattern: net, options });
        let table = ExportTable::new([listed, export(2, "/b")]).unwrap();
        let lists = |ip: &str| table.lists(ip.parse().unwrap());
        assert!(lists("10.1.2.3"));
        assert!(!lists("10.2.0.1"), "`*` lists nobody");
    }

    #[test]
    fn exports_with_the_same_id_or_path_make_no_table() {
        let check = |exports: [Export; 2], expected: &str| {
            assert_eq!(ExportTable::new(exports).unwrap_err().to_string(), expected);
        };
        check([export(1, "/a"), export(1, "/b")], "exports /a and /b have the same id");
        check([export(1, "/a"), export(2, "/a")], "path /a is exported twice");
        check(
            [export(1, "/a"), export(2, "/b/")],
            "export path /b/ is not absolute and normalised",
        );
        check([export(1, "/a"), export(2, "b")], "export path b is not absolute and normalised");
    }
}
