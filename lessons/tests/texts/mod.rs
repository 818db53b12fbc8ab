//! Checks of the texts of the course: code in them is an excerpt of a file, and no translation is older than its original.
//!
//! A comment in front of a block of code says where it comes from. The path begins at the root of the repository:
//!
//! ```text
//! <!-- from lessons/3/solution.rs step 2 -->            all places of the step, with an empty line between them
//! <!-- from lessons/3/solution.rs step 2 place 1 -->    one of them
//! <!-- from lessons/3/naive.rs lines "fn main" to "}" -->
//! <!-- from src/net/pending.rs "pub fn register" to "    }" -->
//! <!-- from lessons/3/naive.rs "fn main" -->            one line
//! <!-- from lessons/3/naive.rs -->                      the whole file
//! <!-- not from a file: … -->                           the reason
//! ```
//!
//! An excerpt begins with the first line that has the first text in it. It ends with the next line that is exactly the
//! second text. It may be less indented than in the file, but all its lines by the same width.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::steps;

/// What is wrong with the excerpts of one text. `read_file` returns the text of a file of the repository.
pub fn check_excerpts(text: &str, read_file: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut errors = Vec::new();
    let mut source: Option<&str> = None;
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let line = line.trim();
        if let Some(fence) = line.strip_prefix("```") {
            let code: Vec<&str> =
                lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```").collect();
            let result = match source.take() {
                Some(source) => compare(&code, source, read_file),
                None if fence == "rust" => Err("this code does not say which file it comes from".to_owned()),
                None => Ok(()),
            };
            errors.extend(result.err().map(|error| format!("line {}: {error}", index + 1)));
        } else if line.starts_with("<!-- from ") || line.starts_with("<!-- not from a file: ") {
            source = Some(line);
        } else if let (false, Some(source)) = (line.is_empty(), source.take()) {
            errors.push(format!("line {}: no code follows {source}", index + 1));
        }
    }
    errors
}

fn compare(code: &[&str], source: &str, read_file: &dyn Fn(&str) -> Option<String>) -> Result<(), String> {
    let Some(source) = source.strip_prefix("<!-- from ") else { return Ok(()) };
    let source = source.trim_end_matches("-->").trim();
    let (path, part) = source.split_once(' ').unwrap_or((source, ""));
    let file = read_file(path).ok_or_else(|| format!("there is no file {path}"))?;
    let wanted = excerpt(&file, part).map_err(|error| format!("{source}: {error}"))?;
    let wanted: Vec<&str> = wanted.lines().collect();
    if code == wanted || code == outdent(&wanted) {
        return Ok(());
    }
    let shown = outdent(code);
    let other = outdent(&wanted)
        .into_iter()
        .chain(std::iter::repeat(""))
        .zip(shown.iter().chain([&""]))
        .find(|(a, b)| a != *b);
    let (there, here) = other.unwrap_or(("", &""));
    Err(format!("this is not {source}\n  in the text: {here}\n  in the file: {there}"))
}

/// The wanted part of a file, as its comment describes it.
fn excerpt(file: &str, part: &str) -> Result<String, String> {
    // The marks of the steps are no part of the code that a reader sees.
    let marked = steps::read(file)?;
    if let Some(step) = part.strip_prefix("step ") {
        let (step, place) =
            step.split_once(" place ").map_or((step, None), |(step, place)| (step, Some(place)));
        let places = marked.places(step.parse().map_err(|_| "a step needs a number")?);
        let Some(place) = place else {
            return if places.is_empty() {
                Err("there is no such step".to_owned())
            } else {
                Ok(places.join("\n"))
            };
        };
        let index = place.parse::<usize>().map_err(|_| "a place needs a number")?.wrapping_sub(1);
        return places.get(index).cloned().ok_or_else(|| "this step has no such place".to_owned());
    }
    let file = marked.stage(marked.count());
    if part.is_empty() {
        return Ok(file);
    }
    // `"first" to "last"`: the texts are every second piece between quotes. A text with a quote in it has `\"`.
    let part = part.replace("\\\"", "\0");
    let pieces: Vec<String> = part.split('"').map(|piece| piece.replace('\0', "\"")).collect();
    let (first, last) = match pieces.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["" | "lines ", first, ""] => (first, None),
        ["" | "lines ", first, " to ", last, ""] => (first, Some(last)),
        _ => return Err("say it as `step 2`, or as `lines \"first\" to \"last\"`".to_owned()),
    };
    let lines: Vec<&str> = file.lines().collect();
    let begin = lines.iter().position(|line| line.contains(first)).ok_or("no line has the first text")?;
    let end = match last {
        None => begin,
        Some(last) => {
            let end = lines[begin + 1..].iter().position(|line| *line == last);
            begin + 1 + end.ok_or("no line is the last text")?
        }
    };
    Ok(lines[begin..=end].join("\n") + "\n")
}

/// The lines without the indentation that all of them have.
fn outdent<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let indent = |line: &&&str| line.len() - line.trim_start().len();
    let width =
        lines.iter().filter(|line| !line.is_empty()).map(|line| indent(&line)).min().unwrap_or_default();
    lines.iter().map(|line| line.get(width..).unwrap_or_default()).collect()
}

/// Which sections of a translation are older than the original. A section knows the hash of what it translates.
pub fn check_translation(english: &str, korean: &str) -> Vec<String> {
    let (english, korean) = (sections(english), sections(korean));
    let mut errors = Vec::new();
    if english.len() != korean.len() {
        errors.push(format!("{} sections translate {} sections", korean.len(), english.len()));
    }
    for (original, translation) in english.iter().zip(&korean) {
        let (heading, body) = translation.split_once('\n').unwrap_or((translation, ""));
        let mark = format!("<!-- english: {} -->", hash(original));
        if body.trim_start().lines().next() != Some(&mark) {
            let title = original.lines().next().unwrap_or_default();
            errors.push(format!(
                "`{heading}` is older than `{title}`. When it says the same, begin it with {mark}"
            ));
        }
    }
    errors
}

/// The names of code in the section of a lesson that compares it with Pilcrow: the last part of `Link::open` is `open`.
pub fn names_about_pilcrow(text: &str) -> Vec<String> {
    let is_about = |section: &&String| {
        let heading = section.lines().next().unwrap_or_default();
        heading == "## In Pilcrow" || heading == "## Pilcrow에서는"
    };
    let sections = sections(text);
    let Some(section) = sections.iter().find(is_about) else { return Vec::new() };
    let prose = section.split("```").step_by(2);
    let quoted = prose.flat_map(|prose| prose.split('`').skip(1).step_by(2));
    let is_name = |name: &&str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    };
    let names = quoted.map(|name| name.trim_end_matches("()")).filter(is_name);
    names.map(|name| name.rsplit(':').next().unwrap_or(name).to_owned()).collect()
}

/// The parts of a text that begin with a heading `##`, with this heading and without empty lines at the end.
fn sections(text: &str) -> Vec<String> {
    let mut sections: Vec<String> = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        in_code ^= line.trim_start().starts_with("```");
        if !in_code && line.starts_with("## ") {
            sections.push(String::new());
        }
        if let Some(section) = sections.last_mut() {
            section.push_str(line);
            section.push('\n');
        }
    }
    sections.iter().map(|section| section.trim_end().to_owned()).collect()
}

/// The first 8 digits of the SHA-256, in hexadecimal.
pub fn hash(section: &str) -> String {
    Sha256::digest(section).iter().take(4).fold(String::new(), |mut text, byte| {
        // Writing into a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
