//! The house rules that the source itself can prove: layers, cycles, neighbours, names, sizes.
//!
//! The tests parse the library with `syn` and start no process. `docs/architecture.md` explains the layers.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod documents;
mod layers;
mod source;

use std::collections::{BTreeMap, BTreeSet};

use layers::{FORBIDDEN, LAYERS, layer_of};
use source::{Module, modules, root};

/// The line limit for the path of one request (`docs/architecture.md`).
const MAX_PATH_LINES: usize = 2800;

/// A file with more lines than this must give the reason in its first lines.
const LONG_FILE_LINES: usize = 450;

/// A long file must give its reason in its first lines, after these words.
const REASON: &str = "This file is long because";

/// The heading in `lib.rs` under which the files on the path of one request are listed, in reading order.
const PATH_HEADING: &str = "# The path of one request";

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn the_parser_sees_what_is_there() {
    let all = modules();
    let uses = |from: &str, to: &str| all[from].uses.contains(to);
    assert!(uses("net::link", "packet"), "a `use` of a crate path");
    assert!(uses("bin::gateway", "gateway"), "a `use` in a binary");
    assert!(uses("mesh", "packet::reply"), "a name that `packet` re-exports");
    assert!(all.values().all(|module| !module.uses.contains("users::tests")), "tests are excluded");
    assert!(all["packet::reply"].types.iter().any(|one| one.name == "Failure" && one.is_public));
}

#[test]
fn every_module_belongs_to_a_layer() {
    let homeless: Vec<String> = modules().keys().filter(|name| layer_of(name).is_none()).cloned().collect();
    assert_none("modules that tests/house/layers.rs does not name", &homeless);
}

#[test]
fn every_layer_names_modules_that_exist() {
    let all = modules();
    let named = LAYERS.iter().flat_map(|layer| layer.modules);
    let unknown: Vec<String> = named
        .filter(|prefix| !all.keys().any(|name| layers::is_within(name, prefix)))
        .map(|prefix| (*prefix).to_owned())
        .collect();
    assert_none("names in tests/house/layers.rs without a module", &unknown);
}

#[test]
fn dependencies_point_down_only() {
    let mut upward = Vec::new();
    for (name, module) in modules() {
        let Some(from) = layer_of(name) else { continue };
        for used in &module.uses {
            let Some(to) = layer_of(used) else { continue };
            if to > from {
                upward.push(format!("{name} ({}) uses {used} ({})", LAYERS[from].name, LAYERS[to].name));
            }
        }
    }
    assert_none("upward dependencies", &upward);
}

#[test]
fn no_module_depends_on_itself_through_others() {
    let all = modules();
    let reachable: BTreeMap<&String, BTreeSet<&String>> =
        all.keys().map(|name| (name, reachable_from(all, name))).collect();
    let mut cycles = BTreeSet::new();
    for (name, others) in &reachable {
        if others.contains(name) {
            let circle: Vec<&str> = others
                .iter()
                .filter(|other| reachable[**other].contains(*name))
                .map(|other| other.as_str())
                .collect();
            cycles.insert(circle.join(", "));
        }
    }
    assert_none("cycles", &cycles.into_iter().collect::<Vec<_>>());
}

fn reachable_from<'a>(all: &'a BTreeMap<String, Module>, start: &str) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&String> = all[start].uses.iter().collect();
    while let Some(name) = next.pop() {
        if reached.insert(name) {
            next.extend(all.get(name).into_iter().flat_map(|module| &module.uses));
        }
    }
    reached
}

#[test]
fn no_module_uses_a_forbidden_neighbour() {
    let all = modules();
    let mut found = Vec::new();
    for (who, neighbours, why) in FORBIDDEN {
        for (name, module) in all.iter().filter(|(name, _)| layers::is_within(name, who)) {
            let used = module.uses.iter();
            let used = used.filter(|used| neighbours.iter().any(|one| layers::is_within(used, one)));
            found.extend(used.map(|used| format!("{name} uses {used}: {why}")));
        }
    }
    assert_none("forbidden neighbours", &found);
}

#[test]
fn no_two_types_share_a_name() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let all = modules();
    // Each binary is a separate program, so its `Args` cannot clash with those of another.
    for (name, module) in all.iter().filter(|(name, _)| !layers::is_within(name, "bin")) {
        for one in &module.types {
            places.entry(one.name.clone()).or_default().push(name.clone());
        }
    }
    let twice: Vec<String> = places
        .into_iter()
        .filter(|(_, places)| places.len() > 1)
        .map(|(name, places)| format!("{name}: {}", places.join(", ")))
        .collect();
    assert_none("type names that are defined more than once", &twice);
}

/// The files that `lib.rs` lists under [`PATH_HEADING`].
fn path_files(lib: &str) -> Vec<String> {
    let section = lib.split(PATH_HEADING).nth(1).unwrap_or_default();
    let section = section.split("//! #").next().unwrap_or_default();
    let quoted = section.split('`').skip(1).step_by(2);
    quoted.filter(|word| word.starts_with("src/")).map(str::to_owned).collect()
}

#[test]
fn the_path_of_one_request_is_as_short_as_promised() {
    let read = |file: &str| std::fs::read_to_string(root().join(file)).unwrap_or_default();
    let lib = read("src/lib.rs");
    let files = path_files(&lib);
    assert!(files.len() >= 10, "lib.rs lists the path under `{PATH_HEADING}`: {files:?}");
    let missing: Vec<String> = files.iter().filter(|file| !root().join(file).is_file()).cloned().collect();
    assert_none("files of the path that do not exist", &missing);
    let lines: usize = files.iter().map(|file| read(file).lines().count()).sum();
    assert!(lines <= MAX_PATH_LINES, "the path has {lines} lines; at most {MAX_PATH_LINES}");
    let lines = with_comma(lines);
    for (document, unit) in [("src/lib.rs", " lines"), ("README.md", " lines"), ("README.ko.md", "줄")] {
        let stated = format!("{lines}{unit}");
        assert!(read(document).contains(&stated), "{document} must say that the path has {stated}");
    }
}

fn with_comma(number: usize) -> String {
    if number < 1000 { number.to_string() } else { format!("{},{:03}", number / 1000, number % 1000) }
}

#[test]
fn a_long_file_says_why_it_is_long() {
    let without_reason: Vec<String> = modules()
        .values()
        .filter(|module| module.lines > LONG_FILE_LINES && !module.head.contains(REASON))
        .map(|module| format!("{}: {} lines", module.file.display(), module.lines))
        .collect();
    assert_none("long files whose first lines give no reason", &without_reason);
}
