//! The rules of RFCs that the code follows, as its comments have them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The lines of this module's source that begin with a text, without it; in tests or outside.
fn lines(prefix: &str, in_tests: bool) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/locks");
    let (mut found, mut folders) = (Vec::new(), vec![root]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.iter().any(|part| part == "tests") == in_tests {
                let text = fs::read_to_string(path).unwrap();
                let lines = text.lines().filter_map(|line| line.trim().strip_prefix(prefix));
                found.extend(lines.map(str::to_owned));
            }
        }
    }
    found
}

/// The RFC and the section, and what follows.
fn section(line: &str) -> Option<(String, &str)> {
    let (number, rest) = line.split_once(' ')?;
    let (section, rest) = rest.split_once(':').unwrap_or((rest, ""));
    let is_number = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let ok = is_number(number) && is_number(section) && !section.is_empty();
    ok.then(|| (format!("{number} {section}"), rest.trim()))
}

#[test]
fn every_rule_has_a_section_words_and_a_test() {
    let mut rules = BTreeMap::<String, Vec<String>>::new();
    for line in lines("//= ", false) {
        let rule = line.strip_prefix("RFC ").and_then(section);
        let (section, words) = rule.unwrap_or_else(|| panic!("no rule: {line}"));
        assert!(words.len() > 20, "no words: {line}");
        rules.entry(section).or_default().push(words.to_owned());
    }
    let tested: Vec<_> = lines("//= test RFC ", true)
        .iter()
        .map(|line| section(line).unwrap_or_else(|| panic!("no section: {line}")).0)
        .collect();
    for (section, words) in &rules {
        println!("RFC {section}");
        words.iter().for_each(|words| println!("    {words}"));
        assert!(tested.contains(section), "no test of RFC {section}");
    }
    for section in tested {
        assert!(rules.contains_key(&section), "a test of RFC {section}, which has no rule");
    }
    assert!(rules.len() > 20, "the rules were not found");
}
