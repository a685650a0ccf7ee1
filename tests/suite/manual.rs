//! The manual agrees with the program: its tables have every option, command and parameter, and
//! none that does not exist; its links lead somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use berth::command::Exit;
use berth::manual::{PAGES, page};
use berth::provisioner::params::ClassParameters;

use crate::support::server::berth;

const README: &str = include_str!("../../README.md");

/// The cells of a row of a table; `None` if the line is not one.
fn cells(line: &'static str) -> Option<Vec<&'static str>> {
    let inner = line.strip_prefix('|')?.strip_suffix('|')?;
    // A `|` inside a cell is escaped as `\|`.
    let mut cells = Vec::new();
    let mut start = 0;
    for (at, _) in inner.match_indices('|').filter(|(at, _)| !inner[..*at].ends_with('\\')) {
        cells.push(inner[start..at].trim());
        start = at + 1;
    }
    cells.push(inner[start..].trim());
    Some(cells)
}

/// The rows of the table of a page that has this header.
fn table(topic: &str, head: &[&str]) -> Vec<Vec<&'static str>> {
    table_of(page(topic).unwrap().text, head)
}

fn table_of(text: &'static str, head: &[&str]) -> Vec<Vec<&'static str>> {
    let mut lines = text.lines().map(cells);
    assert!(lines.any(|row| row.as_deref() == Some(head)), "there is no table {head:?}");
    lines.map_while(|row| row).skip(1).collect()
}

/// The rows of the tables of `berth serve`'s options.
fn rows_of_options() -> Vec<Vec<&'static str>> {
    let head = ["option", "default", "meaning"];
    [table("serve", &head), table("kubernetes", &head)].concat()
}

/// The text between backquotes.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn help(args: &[&str]) -> String {
    String::from_utf8(berth(args).stdout).unwrap()
}

/// The options of `berth serve`, each with its help text.
fn options() -> BTreeMap<String, String> {
    let help = help(&["serve", "--help"]);
    let mut options = BTreeMap::new();
    let mut last = None;
    // The examples after the options look like options, too.
    let (help, _) = help.split_once("\nExamples:").expect("examples");
    for line in help.lines() {
        if let Some((_, rest)) = line.trim_start().split_once("--").filter(|(before, _)| {
            line.starts_with("  ") && !line.starts_with("       ") && before.len() <= 4
        }) {
            let name = rest.split([' ', '=']).next().unwrap().to_owned();
            last = Some(name.clone());
            options.insert(name, String::new());
        } else if let Some(text) = last.as_ref().and_then(|name| options.get_mut(name)) {
            text.push_str(line.trim());
            text.push(' ');
        }
    }
    assert!(options.len() > 15 && options.contains_key("listen"), "{options:?}");
    options.remove("help");
    options
}

#[test]
fn every_option_is_in_a_table_with_its_default() {
    let rows = rows_of_options();
    for (name, text) in options() {
        let flag = format!("--{name}");
        let of = |row: &&Vec<&str>| {
            let first = words(row[0]).next().unwrap_or_default();
            words(row[0]).any(|word| word.split(' ').next() == Some(&flag)) && !first.is_empty()
        };
        let row = rows.iter().find(of).unwrap_or_else(|| panic!("no row for {flag}"));
        let default =
            text.split_once("[default: ").map(|(_, rest)| rest.split(']').next().unwrap());
        // Defaults that are descriptions may have other words in the table.
        if let Some(default) = default.filter(|default| !default.contains(' ')) {
            assert!(words(row[1]).any(|w| w == default) || row[1] == default, "{flag}: {default}");
        }
        let env = format!("BERTH_{}", name.to_uppercase().replace('-', "_"));
        assert!(text.contains(&format!("[env: {env}=]")), "{flag} has another variable: {text}");
    }
}

#[test]
fn no_table_has_an_option_that_does_not_exist() {
    let known = options();
    for row in rows_of_options() {
        for flag in words(row[0]).filter_map(|word| word.strip_prefix("--")) {
            let name = flag.split(' ').next().unwrap();
            assert!(known.contains_key(name), "--{name} is no option of serve");
        }
    }
}

#[test]
fn every_command_on_volumes_is_in_the_table() {
    let help = help(&["volume", "--help"]);
    let (_, commands) = help.split_once("Commands:").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    let commands: BTreeSet<_> =
        commands.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let table = table("volumes", &["command of `berth volume`", "what it does"]);
    let first = |word: &'static str| word.split(' ').next().unwrap();
    let listed: BTreeSet<_> = table.iter().flat_map(|row| words(row[0])).map(first).collect();
    let commands: BTreeSet<_> = commands.into_iter().filter(|name| *name != "help").collect();
    assert_eq!(listed, commands);
}

#[test]
fn every_parameter_of_a_class_is_in_the_table() {
    let nonsense = BTreeMap::from([("nonsense".to_owned(), String::new())]);
    let error = ClassParameters::read(&nonsense).unwrap_err().to_string();
    let (_, expected) = error.split_once("expected one of").unwrap();
    let known: BTreeSet<_> = words(expected).collect();
    assert!(known.contains("pathPattern"), "{error}");
    let table = table("kubernetes", &["parameter of a class", "default", "meaning"]);
    let listed: BTreeSet<_> = table.iter().flat_map(|row| words(row[0])).collect();
    assert_eq!(listed, known);
}

#[test]
fn every_page_can_be_printed_and_is_in_the_list_and_the_readme() {
    let list = help(&["manual"]);
    let readme = table_of(README, &["topic", ""]);
    assert_eq!(readme.len(), PAGES.len());
    for (page, row) in PAGES.iter().zip(readme) {
        assert_eq!(help(&["manual", page.topic]), page.text);
        assert!(list.contains(&format!("  {:<16} {}\n", page.topic, page.about)), "{list}");
        let link = format!("[{0}](src/manual/{0}.md)", page.topic);
        assert_eq!(row, [&link, page.about]);
    }
    let unknown = berth(&["manual", "nonsense"]);
    assert_eq!(unknown.status.code(), Some(Exit::Usage as i32));
    let error = String::from_utf8(unknown.stderr).unwrap();
    assert!(PAGES.iter().all(|page| error.contains(page.topic)), "{error}");
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let pages = ["README.md", "chart/README.md", "docker/README.md", "tests/README.md"];
    let pages = pages.map(str::to_owned).into_iter();
    let manual = PAGES.iter().map(|page| format!("src/manual/{}.md", page.topic));
    for file in pages.chain(manual).chain(["tests/bench/README.md".to_owned()]) {
        for link in links(&read(Path::new(&file))) {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => PathBuf::from(&file),
                _ => Path::new(&file).parent().unwrap().join(path),
            };
            let text = read(&target);
            let found = anchor.is_empty() || anchors(&text).any(|found| found == anchor);
            assert!(found, "{file}: {link}");
        }
    }
}

fn read(path: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// The targets of the links in a text, except URLs.
fn links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    targets.filter(|target| !target.contains("://")).map(str::to_owned).collect()
}

/// The anchors of the headings in a text, as GitHub makes them.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let kept = line.trim_start_matches('#').trim().to_lowercase();
        kept.chars()
            .filter(|c| c.is_alphanumeric() || " -".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    })
}
