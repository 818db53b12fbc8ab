//! The course does not drift: all its code compiles, and its texts show the code and say the same in both languages.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod steps;
mod texts;

/// All programs of the course and all their stages: they compile, or this test does not.
mod programs {
    include!(concat!(env!("OUT_DIR"), "/stages.rs"));
}

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use texts::{check_excerpts, check_translation, hash};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read_file(path: &str) -> Option<String> {
    fs::read_to_string(root().join(path)).ok()
}

/// The lessons that exist, and their solutions.
fn solutions() -> Vec<(usize, steps::Solution)> {
    let read = |lesson: usize| {
        let text = read_file(&format!("lessons/{lesson}/solution.rs"))?;
        let solution =
            steps::read(&text).unwrap_or_else(|error| panic!("lessons/{lesson}/solution.rs: {error}"));
        Some((lesson, solution))
    };
    (1..=7).filter_map(read).collect()
}

/// The texts of the course in one language.
fn texts(language: &str) -> Vec<PathBuf> {
    let Ok(directory) = fs::read_dir(root().join("lessons").join(language)) else { return Vec::new() };
    let paths = directory.map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    paths.sort();
    paths
}

/// Fails with all errors, each with the name of its file.
fn report(errors: Vec<(PathBuf, Vec<String>)>) {
    let lines = errors.into_iter().flat_map(|(path, errors)| {
        let path = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        errors.into_iter().map(move |error| format!("{path}: {error}\n"))
    });
    let text: String = lines.collect();
    assert!(text.is_empty(), "\n{text}");
}

#[test]
fn each_lesson_has_four_to_seven_steps_of_at_most_twenty_lines() {
    for (lesson, solution) in solutions() {
        assert!((4..=7).contains(&solution.count()), "lesson {lesson} has {} steps", solution.count());
        for step in 1..=solution.count() {
            let places = solution.places(step);
            assert!(!places.is_empty(), "lesson {lesson} has no step {step}");
            for place in places {
                assert!(place.lines().count() <= 20, "lesson {lesson}, step {step} is too long:\n{place}");
            }
        }
    }
}

/// `UPDATE=1` writes the skeletons.
#[test]
fn each_skeleton_is_its_solution_before_the_first_step() {
    for (lesson, solution) in solutions() {
        let (path, skeleton) = (format!("lessons/{lesson}/skeleton.rs"), solution.stage(0));
        if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
            fs::write(root().join(&path), &skeleton).unwrap();
        }
        assert!(
            read_file(&path).as_ref() == Some(&skeleton),
            "{path} is out of date: run this test with UPDATE=1"
        );
    }
}

#[test]
fn each_lesson_begins_in_three_languages() {
    for (lesson, _) in solutions() {
        for name in ["naive.rs", "skeleton.py", "skeleton.js"] {
            assert!(
                read_file(&format!("lessons/{lesson}/{name}")).is_some(),
                "lesson {lesson} has no {name}"
            );
        }
    }
}

#[test]
fn code_in_a_text_is_an_excerpt_of_its_file() {
    let paths = texts("en").into_iter().chain(texts("ko"));
    report(
        paths
            .map(|path| (path.clone(), check_excerpts(&fs::read_to_string(&path).unwrap(), &read_file)))
            .collect(),
    );
}

/// All Rust code below this folder.
fn code_below(folder: &Path, code: &mut String) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            code_below(&entry, code);
        } else if entry.extension().is_some_and(|end| end == "rs") {
            code.push_str(&fs::read_to_string(&entry).unwrap());
        }
    }
}

#[test]
fn each_name_in_the_section_about_pilcrow_exists_in_its_code() {
    let mut code = String::new();
    for folder in ["src", "lessons/small"] {
        code_below(&root().join(folder), &mut code);
    }
    let is_part_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words: HashSet<&str> = code.split(|c| !is_part_of_name(c)).collect();
    let mut checked = 0;
    for path in [texts("en"), texts("ko")].concat() {
        let text = fs::read_to_string(&path).unwrap();
        for name in texts::names_about_pilcrow(&text) {
            checked += 1;
            assert!(words.contains(&*name), "{}: there is no `{name}` in the code", path.display());
        }
    }
    assert!(checked > 40, "only {checked} names were found");
}

#[test]
fn no_korean_section_is_older_than_the_english_one() {
    let check = |(english, path): (PathBuf, PathBuf)| {
        let Ok(english) = fs::read_to_string(english) else {
            return (path, vec!["it has no original".to_owned()]);
        };
        let errors = check_translation(&english, &fs::read_to_string(&path).unwrap());
        (path, errors)
    };
    let lessons = root().join("lessons/en");
    let pairs = texts("ko").into_iter().map(|path| (lessons.join(path.file_name().unwrap()), path));
    let readme = (root().join("README.md"), root().join("README.ko.md"));
    report(pairs.chain([readme]).map(check).collect());
}

const SOLUTION: &str = "\
fn main() {
    //# step 1
    let a = 1;
    //# step 2
    let b = 2;
    //# before
    // let b = 0;
    //# end
    //# before
    // // Step 1 comes here.
    //
    //# end
    done();
}
//# step 2

fn done() {}
//# end
";

#[test]
fn a_stage_has_some_steps_and_what_stands_in_place_of_the_others() {
    let solution = steps::read(SOLUTION).unwrap();
    assert_eq!(solution.stage(0), "fn main() {\n    // Step 1 comes here.\n\n    done();\n}\n");
    assert_eq!(solution.stage(1), "fn main() {\n    let a = 1;\n    let b = 0;\n    done();\n}\n");
    assert_eq!(
        solution.stage(2),
        "fn main() {\n    let a = 1;\n    let b = 2;\n    done();\n}\n\nfn done() {}\n"
    );
    assert_eq!(solution.places(1), ["    let a = 1;\n    let b = 0;\n"]);
    assert_eq!(solution.places(2), ["    let b = 2;\n", "fn done() {}\n"]);
}

#[test]
fn a_wrong_mark_is_an_error() {
    for text in
        ["//# step 1", "//# end", "//# before", "//# step x\n//# end", "//# step 1\n//# before\nlet\n//# end"]
    {
        assert!(steps::read(text).is_err(), "{text}");
    }
    assert!(steps::read("//# step 2\n//# step 1\n//# end\n//# end").is_err());
}

/// The errors of a text with one block of code.
fn errors_of(source: &str, code: &str) -> Vec<String> {
    let read = |path: &str| (path == "lessons/1/solution.rs").then(|| SOLUTION.to_owned());
    check_excerpts(&format!("# A title\n\n{source}\n```rust\n{code}\n```\nMore.\n"), &read)
}

#[test]
fn a_right_excerpt_passes() {
    for (part, code) in [
        ("step 1", "    let a = 1;\n    let b = 0;"),
        ("step 1", "let a = 1;\nlet b = 0;"),
        ("step 2", "    let b = 2;\n\nfn done() {}"),
        ("step 2 place 2", "fn done() {}"),
        ("lines \"fn main\" to \"}\"", "fn main() {\n    let a = 1;\n    let b = 2;\n    done();\n}"),
        ("\"let a\" to \"    done();\"", "let a = 1;\nlet b = 2;\ndone();"),
        ("\"let a\"", "let a = 1;"),
    ] {
        let errors = errors_of(&format!("<!-- from lessons/1/solution.rs {part} -->"), code);
        assert_eq!(errors, [""; 0], "{part}");
    }
    assert_eq!(errors_of("<!-- not from a file: a sketch -->", "let a = 2;"), [""; 0]);
}

#[test]
fn a_wrong_excerpt_is_found() {
    for (source, code, error) in [
        ("<!-- from lessons/1/solution.rs step 1 -->", "let a = 1;\nlet b = 1;", "in the text: let b = 1;"),
        ("<!-- from lessons/1/solution.rs step 1 -->", "let a = 1;", "in the file: let b = 0;"),
        (
            "<!-- from lessons/1/solution.rs step 1 -->",
            "let a = 1;\nlet b = 0;\nmore();",
            "in the text: more();",
        ),
        (
            "<!-- from lessons/1/solution.rs step 1 -->",
            "let a = 1;\n  let b = 0;",
            "in the text:   let b = 0;",
        ),
        ("<!-- from lessons/1/solution.rs step 3 -->", "let a = 1;", "no such step"),
        ("<!-- from lessons/1/solution.rs step 1 place 2 -->", "let a = 1;", "no such place"),
        ("<!-- from lessons/1/solution.rs \"fn rain\" to \"}\" -->", "}", "no line has the first text"),
        ("<!-- from lessons/1/solution.rs \"fn main\" to \"]\" -->", "}", "no line is the last text"),
        ("<!-- from lessons/1/solution.rs fn main -->", "}", "say it as"),
        ("<!-- from lessons/8/solution.rs step 1 -->", "let a = 1;", "there is no file"),
        ("", "let a = 1;", "does not say which file"),
        ("<!-- from lessons/1/solution.rs step 1 -->\nWords.", "let a = 1;", "no code follows"),
    ] {
        let errors = errors_of(source, code);
        assert!(errors.iter().any(|found| found.contains(error)), "{source}: {errors:?}");
        assert!(errors[0].starts_with("line "), "{errors:?}");
    }
}

#[test]
fn a_stale_translation_is_found() {
    let english = "# One\n\n## What you see\n\nA picture.\n```\n## no heading\n```\n\n## The idea\nBytes.\n";
    let (first, second) =
        (hash("## What you see\n\nA picture.\n```\n## no heading\n```"), hash("## The idea\nBytes."));
    let korean = |second: &str| {
        format!(
            "# 하나\n\n## 보게 될 것\n\n<!-- english: {first} -->\n그림.\n\n## 생각\n<!-- english: {second} -->\n바이트.\n"
        )
    };
    assert_eq!(check_translation(english, &korean(&second)), [""; 0]);
    let errors = check_translation(english, &korean("00000000"));
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].contains("`## 생각` is older than `## The idea`") && errors[0].contains(&second),
        "{errors:?}"
    );
    let errors = check_translation(english, "# 하나\n");
    assert!(errors[0].contains("0 sections translate 2"), "{errors:?}");
}
