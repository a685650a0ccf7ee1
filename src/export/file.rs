//! The exports file, in the format of exports(5): on each line a path, then its clients.
//!
//! ```text
//! /srv/data     -sync  10.0.0.0/8(rw)  backup.example.org(ro,no_root_squash)   # a comment
//! "/srv/a b"    *(ro,all_squash)
//! ```
//!
//! The parser follows nfs-utils, with one exception: a line that exports more than its writer
//! meant is an error, not a warning. These are a line without a client, and options separated from
//! their client by white space (`host (rw)`); nfs-utils takes both to mean every client. A file
//! with an error is rejected as a whole, and all its errors are reported at once.
//!
//! The caller limits the size of the text. The size of the result is limited here.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::export::client::Resolve;
use crate::export::error::{ExportsFileError, LineProblem};
use crate::export::limits::{CLIENTS_MAX, ERRORS_MAX, EXPORTS_MAX, WORD_MAX};
use crate::export::options::{self, OptionsDraft};
use crate::export::path;
use crate::export::traffic::Traffic;
use crate::export::words::{Lines, LogicalLine, Word};
use crate::export::{ClientEntry, ClientPattern, Export, ExportId};

/// One line of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportLine {
    /// The number of its first line, from 1.
    pub line: usize,
    /// The path, as [`path::normalise`] returns it.
    pub path: Vec<u8>,
    /// Its clients, at least one, in the order of the line.
    pub clients: Vec<ClientEntry>,
}

impl ExportLine {
    /// Returns the export of the directory at this path.
    pub fn into_export(self, id: ExportId) -> Export {
        let dir = PathBuf::from(OsString::from_vec(self.path.clone()));
        let traffic = Traffic::default();
        Export { id, path: self.path, dir, clients: self.clients, traffic, hidden: false }
    }
}

/// Writes the line with every option in effect.
impl fmt::Display for ExportLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_line(f, &self.path, &self.clients)
    }
}

/// Parses the text of an exports file; `name` is the file's name in messages. Blocks while
/// `resolve` resolves host names.
///
/// # Errors
/// Returns every error of the file, at most [`ERRORS_MAX`] of them.
pub fn parse(
    text: &[u8],
    name: &str,
    resolve: Resolve<'_>,
) -> Result<Vec<ExportLine>, Vec<ExportsFileError>> {
    let mut parser = ExportsParser { name, resolve, seen: HashMap::new(), errors: Vec::new() };
    let mut entries = Vec::new();
    for line in Lines::new(text) {
        let [first, ..] = line.words.as_slice() else {
            continue;
        };
        if parser.seen.len() == EXPORTS_MAX {
            parser.report(first, LineProblem::TooManyExports);
            break;
        }
        entries.extend(parser.entry(&line));
        if parser.errors.len() == ERRORS_MAX {
            break;
        }
    }
    if parser.errors.is_empty() { Ok(entries) } else { Err(parser.errors) }
}

/// Writes a line that [`parse`] accepts.
pub(super) fn write_line(
    f: &mut fmt::Formatter<'_>,
    path: &[u8],
    clients: &[ClientEntry],
) -> fmt::Result {
    path::write_escaped(f, path)?;
    clients.iter().try_for_each(|client| write!(f, " {client}"))
}

struct ExportsParser<'a> {
    name: &'a str,
    resolve: Resolve<'a>,
    /// The paths so far, with their lines.
    seen: HashMap<Vec<u8>, usize>,
    errors: Vec<ExportsFileError>,
}

impl ExportsParser<'_> {
    /// Parses a whole line and reports all its errors.
    fn entry(&mut self, line: &LogicalLine) -> Option<ExportLine> {
        let (first, words) = line.words.split_first()?;
        if line.unclosed {
            self.report(first, LineProblem::Quote);
            return None;
        }
        let path = self.path(first);
        let clients = self.clients(first, words);
        Some(ExportLine { line: first.line, path: path?, clients })
    }

    fn path(&mut self, word: &Word) -> Option<Vec<u8>> {
        let path = self.check(word, path::normalise(&word.bytes))?;
        if let Some(&line) = self.seen.get(&path) {
            self.report(word, LineProblem::SamePath(line));
            return None;
        }
        self.seen.insert(path.clone(), word.line);
        Some(path)
    }

    fn clients(&mut self, path: &Word, words: &[Word]) -> Vec<ClientEntry> {
        let mut defaults = OptionsDraft::new();
        let mut clients = Vec::new();
        let mut names = HashSet::new();
        for word in words {
            let Some(text) = self.check(word, text(word)) else {
                continue;
            };
            if let Some(list) = text.strip_prefix('-') {
                self.options(word, &mut defaults, list);
                continue;
            }
            if clients.len() == CLIENTS_MAX {
                self.report(word, LineProblem::TooManyClients);
                break;
            }
            let Some(client) = self.client(word, text, defaults) else {
                continue;
            };
            if names.insert(client.pattern.to_string()) {
                clients.push(client);
            } else {
                self.report(word, LineProblem::SameClient(client.pattern.to_string()));
            }
        }
        if words.iter().all(|word| word.bytes.starts_with(b"-")) {
            self.report(path, LineProblem::NoClient);
        }
        clients
    }

    fn client(&mut self, word: &Word, text: &str, defaults: OptionsDraft) -> Option<ClientEntry> {
        let (pattern, list) = self.check(word, split_options(text))?;
        let mut draft = defaults;
        self.options(word, &mut draft, list);
        // Parsing ends when the list of errors is full; do not resolve another name for it.
        if self.errors.len() == ERRORS_MAX {
            return None;
        }
        let pattern = ClientPattern::parse(pattern, &mut *self.resolve);
        Some(ClientEntry { pattern: self.check(word, pattern)?, options: draft.finish() })
    }

    fn options(&mut self, word: &Word, draft: &mut OptionsDraft, list: &str) {
        for option in options::words(list) {
            self.check(word, draft.set(option));
        }
    }

    fn check<T, E: Into<LineProblem>>(&mut self, word: &Word, result: Result<T, E>) -> Option<T> {
        result.map_err(|problem| self.report(word, problem.into())).ok()
    }

    fn report(&mut self, word: &Word, problem: LineProblem) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(ExportsFileError {
                file: self.name.to_owned(),
                line: word.line,
                problem,
            });
        }
    }
}

fn text(word: &Word) -> Result<&str, LineProblem> {
    if word.bytes.len() > WORD_MAX {
        return Err(LineProblem::LongWord);
    }
    std::str::from_utf8(&word.bytes).map_err(|_| LineProblem::NotText(word.bytes.clone()))
}

/// Splits `client(options)`. The options may be missing.
fn split_options(text: &str) -> Result<(&str, &str), LineProblem> {
    let Some((pattern, options)) = text.split_once('(') else {
        return Ok((text, ""));
    };
    if pattern.is_empty() {
        return Err(LineProblem::NobodysOptions(text.to_owned()));
    }
    match options.strip_suffix(')') {
        Some(list) if !list.contains(['(', ')']) => Ok((pattern, list)),
        _ => Err(LineProblem::Parentheses(pattern.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{IpAddr, Ipv4Addr};

    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::*;
    use crate::export::{
        Anonymous, Devices, Durability, ExportMode, ExportOptions, Ports, SetId, Squash,
    };

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));

    fn read(text: &[u8]) -> Result<Vec<ExportLine>, Vec<ExportsFileError>> {
        parse(text, "exports", &mut |name| match name {
            "lost" => Err(io::Error::other("no such host")),
            _ => Ok(vec![HOST]),
        })
    }

    /// Entries are separated by `;`. Options with their default value are left out.
    fn check(text: &str, expected: &str) {
        let entries = read(text.as_bytes()).unwrap();
        let mut shown: Vec<_> = entries.iter().map(ToString::to_string).collect();
        for option in ExportOptions::default().to_string().split(',') {
            for line in &mut shown {
                *line = line.replace(&format!("({option},"), "(");
                *line = line.replace(&format!(",{option},"), ",");
                *line = line.replace(&format!(",{option})"), ")");
                *line = line.replace(&format!("({option})"), "()");
            }
        }
        assert_eq!(shown.join(";"), expected, "{text:?}");
    }

    #[test]
    fn valid_lines_parse() {
        check("", "");
        check("# nothing\n\n", "");
        check("/a *", "/a *()");
        check("/ *()", "/ *()");
        check("/a *(rw,insecure)", "/a *(rw,insecure)");
        check("/a 10.0.0.0/8(rw) pc1(no_root_squash)", "/a 10.0.0.0/8(rw) pc1(no_root_squash)");
        check("/a pc1(rw)\n/b pc1\n", "/a pc1(rw);/b pc1()");
        check("/a \\\n  pc1(rw) \\\n  pc2", "/a pc1(rw) pc2()");
        check("/a pc1(rw) #x\n#y\n/b#c *", "/a pc1(rw);/b\\043c *()");
        check("//a/./b/ *", "/a/b *()");
        check("\"/a b\" *", "/a\\040b *()");
        check("/a\\040b *", "/a\\040b *()");
        check("/\\303\\251/\u{e8}/\\377 *", "/\u{e9}/\u{e8}/\\377 *()");
        check("/a -rw pc1 pc2(ro,async)", "/a pc1(rw) pc2(async)");
        check("/a pc1 -rw pc2 -async pc3", "/a pc1() pc2(rw) pc3(rw,async)");
        check("/a -rw *\n/b *", "/a *(rw);/b *()");
        check(
            "/a -all_squash,anonuid=5 pc1 pc2(no_all_squash)",
            "/a pc1(all_squash,anonuid=5) pc2(anonuid=5)",
        );
        check("/a *(rw,sync,no_subtree_check,fsid=0)", "/a *(rw)");
    }

    /// Every error as `line: message`, separated by `;`.
    fn check_errors(text: &[u8], expected: &str) {
        let errors = read(text).unwrap_err();
        let shown: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let shown = shown.join(";").replace("exports:", "");
        assert_eq!(shown, expected, "{}", text.escape_ascii());
    }

    #[test]
    fn errors_name_the_line_and_the_problem() {
        let check = |text: &str, expected: &str| check_errors(text.as_bytes(), expected);
        check("a *", "1: path is not absolute; begin it with a slash");
        check("\n\n/a/.. *", "3: path contains ..; write the directory itself");
        check("/a\\000 *", "1: path contains a NUL byte");
        check("/a", "1: no client; write * to export to every client");
        check("/a -rw", "1: no client; write * to export to every client");
        check("/a # *", "1: no client; write * to export to every client");
        let separated = "options \"(rw)\" have no client; \
            write client(options) without white space between them";
        check("/a pc1 (rw)", &format!("1: {separated}"));
        check("/a \\\n(rw)", &format!("2: {separated}"));
        let open =
            "options of \"pc1\" do not end in one ')'; remove white space and text after the ')'";
        check("/a pc1(rw", &format!("1: {open}"));
        check("/a pc1(rw)(ro)", &format!("1: {open}"));
        check("/a pc1(rw)x", &format!("1: {open}"));
        check("/a \"pc1(rw)", "1: a quote is not closed in its line");
        check("/a *(rww)", "1: unknown option \"rww\"");
        check("/a -rww *", "1: unknown option \"rww\"");
        check("/a *(rw,,ro)", "1: unknown option \"\"");
        check(
            "/a *\n/b pc1 *\n/a/ *",
            "3: path is already exported in line 1; list all its clients there",
        );
        let twice = "is listed twice; give all its options in one word";
        check("/a pc1 PC1(rw)", &format!("1: client pc1 {twice}"));
        check("/a 10.0.0.1/8 10.0.0.0/255.0.0.0", &format!("1: client 10.0.0.0/8 {twice}"));
        check("/a lost", "1: cannot resolve client lost");
        check_errors(b"/a \xff(rw)", r#"1: "\xff(rw)" is not UTF-8"#);
        check(&format!("/a {}", "x".repeat(WORD_MAX + 1)), "1: a word is longer than 4096 bytes");
    }

    #[test]
    fn all_errors_are_reported() {
        let text = b"/a *(x,ro,y)\n/b *\nc lost(z)\n\n/d -v \\\n @g\n";
        let expected = "1: unknown option \"x\";1: unknown option \"y\";\
            3: path is not absolute; begin it with a slash;3: unknown option \"z\";\
            3: cannot resolve client lost;\
            5: unknown option \"v\";6: client \"@g\" is not supported: it is a netgroup; list the \
            hosts or their network";
        check_errors(text, expected);
        assert_eq!(read("b *\n".repeat(1000).as_bytes()).unwrap_err().len(), ERRORS_MAX);
    }

    #[test]
    fn the_error_chain_names_the_cause_once() {
        let error = read(b"/a lost").unwrap_err().remove(0);
        let cause = std::error::Error::source(&error).unwrap();
        assert_eq!(cause.to_string(), "no such host");
        assert!(std::error::Error::source(&read(b"a *").unwrap_err()[0]).is_none());
    }

    #[test]
    fn clients_and_exports_are_limited() {
        let clients = |n: usize| {
            let list: Vec<_> = (0..n).map(|i| format!("h{i}")).collect();
            format!("/a {}", list.join(" "))
        };
        assert!(read(clients(CLIENTS_MAX).as_bytes()).is_ok());
        let more = "1: more than 1000 clients of one export; list networks instead of hosts";
        check_errors(clients(CLIENTS_MAX + 2).as_bytes(), more);
        let exports = |n: usize| (0..n).map(|i| format!("/{i} *\n")).collect::<String>();
        assert!(read(exports(EXPORTS_MAX).as_bytes()).is_ok());
        let more = "10001: more than 10000 exports in one file";
        check_errors(exports(EXPORTS_MAX + 2).as_bytes(), more);
    }

    fn options() -> impl Strategy<Value = ExportOptions> {
        let mode = prop_oneof![Just(ExportMode::ReadOnly), Just(ExportMode::ReadWrite)];
        let squash = prop_oneof![Just(Squash::None), Just(Squash::Root), Just(Squash::All)];
        let ports = prop_oneof![Just(Ports::Privileged), Just(Ports::Any)];
        let durability = prop_oneof![Just(Durability::Sync), Just(Durability::Async)];
        let anonymous = (0..u32::MAX, 0..u32::MAX).prop_map(|(uid, gid)| Anonymous { uid, gid });
        let set_id = prop_oneof![Just(SetId::Kept), Just(SetId::Refused)];
        let devices = prop_oneof![Just(Devices::Made), Just(Devices::Refused)];
        (mode, squash, anonymous, ports, durability, set_id, devices).prop_map(
            |(mode, squash, anonymous, ports, durability, set_id, devices)| ExportOptions {
                mode,
                squash,
                anonymous,
                ports,
                durability,
                set_id,
                devices,
            },
        )
    }

    fn pattern() -> impl Strategy<Value = ClientPattern> {
        prop_oneof![
            Just(ClientPattern::Anyone),
            any::<IpAddr>().prop_map(|ip| ClientPattern::Host {
                name: None,
                addresses: vec![ip.to_canonical()]
            }),
            "[a-z][a-z0-9_.-]{0,20}[a-z]"
                .prop_filter("resolves", |name| name != "lost")
                .prop_map(|name| ClientPattern::Host { name: Some(name), addresses: vec![HOST] }),
            (any::<IpAddr>(), 0..=32u8).prop_map(|(ip, length)| ClientPattern::Net(
                IpNet::new(ip, length).unwrap().trunc()
            )),
        ]
    }

    fn entry() -> impl Strategy<Value = ExportLine> {
        let byte = prop_oneof![any::<u8>(), prop::sample::select(&b"/ \"#\\\n(\xc3\xa90"[..])];
        let path = prop::collection::vec(byte, 0..40).prop_filter_map("a path", |bytes| {
            path::normalise(&[b"/", bytes.as_slice()].concat()).ok()
        });
        let client =
            (pattern(), options()).prop_map(|(pattern, options)| ClientEntry { pattern, options });
        let clients = prop::collection::vec(client, 1..6).prop_map(|mut clients| {
            let mut seen = HashSet::new();
            clients.retain(|client| seen.insert(client.pattern.to_string()));
            clients
        });
        (path, clients).prop_map(|(path, clients)| ExportLine { line: 1, path, clients })
    }

    proptest! {
        #[test]
        fn written_entries_parse_to_the_same_entry(entry in entry()) {
            let text = entry.to_string();
            prop_assert!(!text.contains(char::is_control), "{}", text);
            prop_assert_eq!(read(text.as_bytes()).unwrap(), vec![entry]);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }

        #[test]
        fn arbitrary_words_parse_or_fail_within_bounds(words in prop::collection::vec(
            prop::sample::select(vec![
                "\n/", "/", "a", " ", " *", " pc1", " 10.0.0.0", "/8", "::", " -", "(", ")", "(rw)",
                "(async,", "anonuid=", "9", ",", "=", "\n", "\\", "\\\n", "\"", " #", "@", "\0",
                "\u{e9}",
            ]), 0..12))
        {
            let text = format!("/{}", words.concat());
            match read(text.as_bytes()) {
                // A parsed entry, written again, parses to the same entry.
                Ok(entries) => for entry in entries {
                    let again = read(entry.to_string().as_bytes()).unwrap();
                    prop_assert_eq!(again, vec![ExportLine { line: 1, ..entry }]);
                },
                Err(errors) => prop_assert!((1..=ERRORS_MAX).contains(&errors.len())),
            }
        }
    }
}
