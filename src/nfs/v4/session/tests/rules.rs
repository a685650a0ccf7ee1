//! The rules of RFCs that the code follows, as its comments have them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The source files of this module, those of tests or the others.
fn sources(of_tests: bool) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/nfs/v4/session");
    let (mut found, mut folders) = (Vec::new(), vec![root]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.iter().any(|part| part == "tests") == of_tests {
                found.push(path);
            }
        }
    }
    found
}

/// The comments that begin with a text: RFC and section, and the words of each.
fn comments(prefix: &str, of_tests: bool) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::<String, Vec<String>>::new();
    for path in sources(of_tests) {
        let text = fs::read_to_string(path).unwrap();
        for line in text.lines().filter_map(|line| line.trim().strip_prefix(prefix)) {
            let (section, words) = line.split_once(':').unwrap_or((line, ""));
            let is_section = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c == '.');
            let parts: Vec<_> = section.split(' ').collect();
            assert!(parts.len() == 2 && parts.iter().all(|p| is_section(p)), "no section: {line}");
            found.entry(section.to_owned()).or_default().push(words.trim().to_owned());
        }
    }
    found
}

#[test]
fn every_rule_has_a_section_words_and_a_test() {
    let rules = comments("//= RFC ", false);
    let tests = comments("//= test RFC ", true);
    for (section, rules) in &rules {
        println!("RFC {section}");
        for words in rules {
            println!("    {words}");
            assert!(words.len() > 20, "no words: {section}: {words}");
        }
    }
    let (rules, tests): (Vec<_>, Vec<_>) = (rules.keys().collect(), tests.keys().collect());
    assert_eq!(rules, tests, "sections of rules and of tests");
    assert!(rules.len() > 10, "the rules were not found");
}
