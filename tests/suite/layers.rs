//! The layers of the program: which module may name which, and where certain code may stand.
//!
//! The table of layers is the one in `src/lib.rs`. The source is read as text: imports are written
//! `use crate::module::..`, one module each, so that this is enough. Comments and tests are left
//! out; tests may import from anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The map of the source, with the table of layers.
const MAP: &str = include_str!("../../src/lib.rs");

/// Files that are no module of the table: the root of the library and of the program.
const ROOTS: &[&str] = &["lib", "main"];

/// Where something may stand: the text, and the modules or files that may hold it.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("unsafe", &["sys"]),
    (
        ".await",
        &["rpc/transport/server.rs", "rpc/transport/connection.rs", "provisioner", "admin", "app"],
    ),
    ("kube::", &["provisioner"]),
];

/// Modules whose files do not import each other in a circle.
const WITHOUT_CIRCLES: &[&str] = &["provisioner"];

/// A source file: its path below `src`, and its code.
struct Source {
    path: PathBuf,
    code: String,
}

impl Source {
    /// The module that the file belongs to.
    fn module(&self) -> String {
        let first = self.path.iter().next().unwrap().to_str().unwrap();
        first.trim_end_matches(".rs").to_owned()
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.module() == *place || self.path == Path::new(place))
    }

    /// The modules of this crate that the code names.
    fn names(&self) -> BTreeSet<String> {
        let after = self.code.split("crate::").skip(1);
        let word = |rest: &str| {
            rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned)
        };
        after.filter_map(word).collect()
    }
}

/// Every module, and the modules that it may name; `None`: all.
fn table() -> BTreeMap<&'static str, Option<BTreeSet<&'static str>>> {
    let mut table = BTreeMap::new();
    for row in MAP.lines().filter_map(|line| line.strip_prefix("//! | [`")) {
        let cells: Vec<_> = row.trim_end_matches(" |").split(" | ").collect();
        let names = match cells[cells.len() - 1] {
            "-" => Some(BTreeSet::new()),
            "all" => None,
            names => Some(names.split(' ').collect()),
        };
        for module in cells[0].split("[`").map(|cell| cell.split('`').next().unwrap()) {
            table.insert(module, names.clone());
        }
    }
    assert!(table.len() > 10, "the table was not found");
    table
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            // Tests of a module and their fixtures may import from anywhere.
            if ["tests", "fixture"].iter().any(|test| entry.file_stem().unwrap() == *test) {
                continue;
            }
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|e| e == "rs") {
                let path = entry.strip_prefix(&root).unwrap().to_owned();
                found.push(Source { path, code: code(&fs::read_to_string(entry).unwrap()) });
            }
        }
    }
    assert!(found.len() > 10, "the source was not found");
    found
}

/// A file's text without its comments and its tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).fold(
        String::new(),
        |mut code, line| {
            code.push_str(line.split(" // ").next().unwrap());
            code.push('\n');
            code
        },
    )
}

fn fail_if_any(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn modules_name_what_the_table_says() {
    let (table, mut used) = (table(), BTreeMap::<String, BTreeSet<String>>::new());
    for source in sources() {
        used.entry(source.module()).or_default().append(&mut source.names());
    }
    let mut faults = Vec::new();
    for (module, named) in used.iter().filter(|(module, _)| !ROOTS.contains(&module.as_str())) {
        let Some(allowed) = table.get(module.as_str()) else {
            faults.push(format!("{module} is not in the table of layers"));
            continue;
        };
        let Some(allowed) = allowed else { continue };
        let named: BTreeSet<_> =
            named.iter().map(String::as_str).filter(|named| named != module).collect();
        let above = named.difference(allowed).map(|named| format!("{module} names {named}"));
        let unused = allowed.difference(&named);
        faults.extend(above.chain(unused.map(|named| format!("{module} does not name {named}"))));
    }
    faults.extend(
        table.keys().filter(|m| !used.contains_key(**m)).map(|m| format!("there is no {m}")),
    );
    fail_if_any(&faults);
}

#[test]
fn imports_are_written_so_that_they_can_be_read() {
    let mut faults = Vec::new();
    for source in sources() {
        if source.code.contains("crate::{") || source.code.contains("crate::*") {
            faults.push(format!("{} hides what it names", source.path.display()));
        }
    }
    fail_if_any(&faults);
}

#[test]
fn what_is_dangerous_stands_where_it_is_expected() {
    let mut faults = Vec::new();
    for source in sources() {
        for (text, places) in ONLY_IN {
            if !source.is_in(places) && has_word(&source.code, text) {
                faults.push(format!("{} has {text}", source.path.display()));
            }
        }
    }
    fail_if_any(&faults);
}

/// Whether a text stands in code, and not as a part of a longer word.
fn has_word(code: &str, text: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(text).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + text.len()..]);
        let starts = !text.starts_with(part) || !before.ends_with(part);
        starts && !after.starts_with(part)
    })
}

/// The files of a module that the code of one of them imports by `super::`.
fn siblings(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for rest in code.split("super::").skip(1) {
        let list = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap(),
            None => rest.split([';', ':', '(', ')', '{', ' ', '\n']).next().unwrap(),
        };
        let names = list.split(',').map(|name| name.trim().split(':').next().unwrap().to_owned());
        found.extend(names);
    }
    found
}

/// What is left of a graph when everything that imports nothing of it is removed, repeatedly.
fn circles(mut graph: BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    loop {
        let left: BTreeSet<_> = graph.keys().cloned().collect();
        graph.retain(|_, imported| !imported.is_disjoint(&left));
        if graph.len() == left.len() {
            return left.into_iter().collect();
        }
    }
}

#[test]
fn files_import_each_other_in_no_circle() {
    let sources = sources();
    for module in WITHOUT_CIRCLES {
        let mut graph = BTreeMap::new();
        for source in
            sources.iter().filter(|source| source.path.parent() == Some(Path::new(module)))
        {
            let name = source.path.file_stem().unwrap().to_str().unwrap();
            // The root names them all, and nothing in it is imported by them.
            if name != "mod" {
                graph.insert(name.to_owned(), siblings(&source.code));
            }
        }
        assert!(graph.len() > 10, "the files of {module} were not found");
        let files: BTreeSet<_> = graph.keys().cloned().collect();
        for (name, imported) in &graph {
            let unknown: Vec<_> = imported.difference(&files).collect();
            assert!(unknown.is_empty(), "{name} imports {unknown:?} from the root of {module}");
        }
        assert_eq!(circles(graph), [""; 0], "these files import each other in a circle");
    }
}

#[test]
fn the_reading_finds_what_it_looks_for() {
    let source = Source {
        path: "xdr/reader.rs".into(),
        code: code(
            "//! crate::rpc\nuse crate::nfs::Nfs; // crate::fs\nfn f() { unsafe { x.await } }\n\
             #[cfg(test)]\nmod tests { use crate::sys; }",
        ),
    };
    assert_eq!(source.names().into_iter().collect::<Vec<_>>(), ["nfs"]);
    assert!(has_word(&source.code, "unsafe") && has_word(&source.code, ".await"));
    assert!(!has_word("fn unsafety(x_unsafe: u8) {}", "unsafe"));
    let imported = siblings("use super::a::B;\nuse super::{c, d::{E, F}};\nuse super::g;\n");
    assert!(["a", "c", "d", "g"].iter().all(|name| imported.contains(*name)), "{imported:?}");
    let imports = |name: &str, of: &str| (name.to_owned(), BTreeSet::from([of.to_owned()]));
    let graph = [imports("a", "b"), imports("b", "c"), imports("c", "b"), imports("d", "e")];
    assert_eq!(circles(graph.into()), ["a", "b", "c"]);
    assert!(source.is_in(&["xdr"]) && source.is_in(&["xdr/reader.rs"]) && !source.is_in(&["rpc"]));
}
