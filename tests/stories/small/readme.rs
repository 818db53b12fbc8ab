//! What `lessons/README.md` says is true.

use std::fs;
use std::path::Path;

const MAX_LINES: usize = 1000;
const FILES: [&str; 4] = ["wire.rs", "distributor.rs", "users.rs", "gateway.rs"];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn the_small_system_has_at_most_a_thousand_lines_and_its_readme_counts_them() {
    let readme = read("lessons/README.md");
    let mut sum = 0;
    for file in FILES {
        let lines = read(&format!("lessons/small/{file}")).lines().count();
        let row = readme.lines().find(|row| row.starts_with(&format!("| [`{file}`](small/{file})")));
        let row = row.unwrap_or_else(|| panic!("lessons/README.md has no row for {file}"));
        assert!(row.ends_with(&format!("| {lines} |")), "{file} has {lines} lines, but the row is: {row}");
        sum += lines;
    }
    assert!(sum <= MAX_LINES, "the small system has {sum} lines");
    let total = format!("| together | | {} |", thousands(sum));
    assert!(readme.contains(&total), "lessons/README.md lacks: {total}");
}

fn thousands(number: usize) -> String {
    if number < 1000 { number.to_string() } else { format!("{},{:03}", number / 1000, number % 1000) }
}

#[test]
fn the_small_system_uses_only_the_packages_of_the_design_card() {
    let manifest = read("lessons/Cargo.toml");
    let dependencies = manifest.split("[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let names: Vec<&str> = dependencies.lines().filter_map(|line| line.split(" =").next()).collect();
    let names: Vec<&str> = names.into_iter().filter(|name| !name.is_empty()).collect();
    let card = ["crossbeam-channel", "env_logger", "log", "rusqlite", "serde", "serde_json", "tiny_http"];
    assert_eq!(names, card);
}

#[test]
fn the_small_system_cannot_panic_by_itself() {
    for file in FILES {
        let code = read(&format!("lessons/small/{file}"));
        for word in [".unwrap()", ".expect(", "panic!", "println!(", "unsafe"] {
            let found = code.lines().find(|line| line.contains(word) && !line.trim_start().starts_with("//"));
            assert_eq!(found, None, "{file}");
        }
    }
}
