//! The documents point at what exists: links, headings, names in the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::assert_none;
use crate::source::root;

const ARCHITECTURE: &str = "docs/architecture.md";

/// The heading of the table whose rows name an idea, a file, and names in that file.
const IDEA_TABLE: &str = "## From the idea to the file";

/// The heading of the table whose rows name an invariant and its tests.
const INVARIANTS: &str = "## Invariants";

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The documents that a reader meets, by their path in the repository.
fn documents() -> BTreeMap<String, String> {
    let mut files: Vec<PathBuf> = [
        "README.md",
        "README.ko.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "bench/README.md",
        "fuzz/README.md",
    ]
    .iter()
    .map(|file| root().join(file))
    .collect();
    files.extend(files_below(&root().join("docs"), "md"));
    files.extend(files_below(&root().join("examples"), "md"));
    files.extend(files_below(&root().join("lessons"), "md"));
    files
        .into_iter()
        .map(|file| (file.strip_prefix(root()).unwrap().display().to_string(), read(&file)))
        .collect()
}

fn files_below(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| if path.is_dir() { files_below(&path, extension) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|end| end == extension))
        .collect()
}

/// The lines of a document outside fenced code, each with its number.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// The targets of the links in a line.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// The anchors of a document, as GitHub and most viewers make them from headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text).filter(|(_, line)| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let count = seen.entry(anchor.clone()).or_default();
        anchors.insert(if *count == 0 { anchor } else { format!("{anchor}-{count}") });
        *count += 1;
    }
    anchors
}

/// Why a link leads nowhere, if it does.
fn find_fault(document: &str, text: &str, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = root().join(document).parent().unwrap().join(path);
    if !path.is_empty() && !file.exists() {
        return Some("no such file".to_owned());
    }
    if anchor.is_empty() {
        return None;
    }
    let headings = if path.is_empty() { anchors(text) } else { anchors(&read(&file)) };
    (!headings.contains(anchor)).then(|| "no such heading".to_owned())
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_exist() {
    let mut faults = Vec::new();
    let mut links = 0;
    for (document, text) in documents() {
        for (number, line) in prose(&text) {
            for target in link_targets(line) {
                links += 1;
                let fault = find_fault(&document, &text, target);
                faults.extend(fault.map(|fault| format!("{document}:{number}: {target}: {fault}")));
            }
        }
    }
    assert!(links > 100, "only {links} links were found");
    assert_none("links that lead nowhere", &faults);
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let fault = |target| find_fault("docs/x.md", "## What it is: `a`", target);
    assert_eq!(fault("no.md").as_deref(), Some("no such file"));
    assert_eq!(fault("#what").as_deref(), Some("no such heading"));
    assert_eq!(fault("#what-it-is-a"), None);
    assert_eq!(fault("../README.md"), None);
    assert_eq!(fault("https://example.com/no"), None);
}

/// The names in backquotes behind each link of a table cell, with the link's target.
fn names_behind_links(cell: &str) -> Vec<(&str, Vec<&str>)> {
    let pieces = cell.split('[').skip(1).filter_map(|piece| piece.split_once("](")?.1.split_once(')'));
    pieces.map(|(target, rest)| (target, rest.split('`').skip(1).step_by(2).collect())).collect()
}

#[test]
fn each_idea_names_code_that_exists_in_its_file() {
    let text = read(&root().join(ARCHITECTURE));
    let section = text.split(IDEA_TABLE).nth(1).unwrap_or_default().split("\n## ").next().unwrap_or_default();
    let mut faults = Vec::new();
    let mut names = 0;
    for row in section.lines().filter(|line| line.starts_with('|')) {
        for (target, symbols) in names_behind_links(row) {
            let code = Path::new(target)
                .extension()
                .is_some_and(|end| end == "rs")
                .then(|| read(&root().join("docs").join(target)));
            names += symbols.len();
            let missing =
                symbols.iter().filter(|name| !code.as_ref().is_some_and(|code| code.contains(**name)));
            faults.extend(missing.map(|name| format!("{target} has no {name}")));
        }
    }
    assert!(names > 20, "only {names} names were found under `{IDEA_TABLE}`");
    assert_none("names that the table of ideas gives and the code does not have", &faults);
}

#[test]
fn each_constant_that_the_architecture_names_is_defined() {
    let text = read(&root().join(ARCHITECTURE));
    let code: String = files_below(&root().join("src"), "rs").iter().map(|file| read(file)).collect();
    let is_constant = |word: &&str| {
        word.contains('_') && word.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    };
    let quoted = prose(&text).flat_map(|(_, line)| line.split('`').skip(1).step_by(2)).filter(is_constant);
    let unknown: Vec<String> = quoted
        .filter(|name| {
            !code.contains(&format!("const {name}:")) && !code.contains(&format!("static {name}:"))
        })
        .filter(|name| !name.starts_with("TCP_") && !name.starts_with("MSG_"))
        .map(str::to_owned)
        .collect();
    assert_none("constants that docs/architecture.md names and the code does not have", &unknown);
}

#[test]
fn each_invariant_names_a_test_that_exists() {
    let text = read(&root().join(ARCHITECTURE));
    let section = text.split(INVARIANTS).nth(1).unwrap_or_default().split("\n## ").next().unwrap_or_default();
    let mut files = files_below(&root().join("tests/house"), "rs");
    files.push(root().join("tests/stories/invariants.rs"));
    let tests: String = files.iter().map(|file| read(file)).collect();
    let rows = section.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let last_cells = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
    let named: Vec<&str> = last_cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(named.len() > 10, "only {named:?} were found under `{INVARIANTS}`");
    let missing: Vec<String> = named
        .iter()
        .filter(|name| !tests.contains(&format!("fn {name}()")))
        .map(ToString::to_string)
        .collect();
    assert_none("tests that docs/architecture.md names and that do not exist", &missing);
}
