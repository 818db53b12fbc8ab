//! The steps of a lesson: `solution.rs` marks them, and a stage is the file after some of them.
//!
//! ```text
//!     //# step 2
//!     let packet = cut(&mut buffer);
//!     //# before
//!     // let packet = None;
//!     //# end
//! ```
//!
//! Stage 2 has the first line between the marks, stages 0 and 1 have the second one without its `// `. A step may have
//! several places, and a place may lie inside a place of an earlier step.

/// A solution, read as a tree of places.
pub struct Solution {
    parts: Vec<Part>,
    count: usize,
}

enum Part {
    Line(String),
    Place { step: usize, after: Vec<Part>, before: Vec<String> },
}

/// Reads the marks of a solution.
pub fn read(text: &str) -> Result<Solution, String> {
    let (parts, _) = read_parts(&mut text.lines().enumerate(), 0)?;
    let count = last_step(&parts);
    Ok(Solution { parts, count })
}

/// The parts of a place, and its lines behind `before`.
type Lines = (Vec<Part>, Vec<String>);

/// Reads up to the end of a place of this step, or up to the end of the file if the step is 0.
fn read_parts<'a>(
    lines: &mut impl Iterator<Item = (usize, &'a str)>,
    inside: usize,
) -> Result<Lines, String> {
    let mut parts = Vec::new();
    let mut before: Option<Vec<String>> = None;
    while let Some((index, line)) = lines.next() {
        let wrong = |what: &str| Err(format!("line {}: {what}: {line}", index + 1));
        let Some(mark) = line.trim_start().strip_prefix("//#") else {
            match (&mut before, uncomment(line)) {
                (None, _) => parts.push(Part::Line(line.to_owned())),
                (Some(before), Some(line)) => before.push(line),
                (Some(_), None) => return wrong("a line behind `//# before` must be a comment"),
            }
            continue;
        };
        match mark.trim().split_once(' ').unwrap_or((mark.trim(), "")) {
            ("step", number) if before.is_none() => {
                let step = number.parse().unwrap_or_default();
                if step <= inside {
                    return wrong("a step needs a number from 1 up, greater than that of the step around it");
                }
                let (after, before) = read_parts(lines, step)?;
                parts.push(Part::Place { step, after, before });
            }
            ("before", "") if inside > 0 && before.is_none() => before = Some(Vec::new()),
            ("end", "") if inside > 0 => return Ok((parts, before.unwrap_or_default())),
            _ => return wrong("this mark does not belong here"),
        }
    }
    if inside > 0 {
        return Err(format!("a place of step {inside} has no `//# end`"));
    }
    Ok((parts, Vec::new()))
}

/// A line without its `// `.
fn uncomment(line: &str) -> Option<String> {
    let text = line.trim_start();
    let indent = &line[..line.len() - text.len()];
    let code = if text == "//" { "" } else { text.strip_prefix("// ")? };
    Some(if code.is_empty() { String::new() } else { format!("{indent}{code}") })
}

fn last_step(parts: &[Part]) -> usize {
    let step = |part: &Part| match part {
        Part::Line(_) => 0,
        Part::Place { step, after, .. } => last_step(after).max(*step),
    };
    parts.iter().map(step).max().unwrap_or_default()
}

impl Solution {
    /// How many steps it has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The file after so many steps. Stage 0 is the skeleton.
    pub fn stage(&self, stage: usize) -> String {
        let mut lines = Vec::new();
        write(&self.parts, stage, &mut lines);
        join(&lines)
    }

    /// The places of one step, as they are when it has just been done. A place that is empty then is left out.
    // The build script has no use for it.
    #[allow(dead_code)]
    pub fn places(&self, step: usize) -> Vec<String> {
        let mut found = Vec::new();
        find_places(&self.parts, step, &mut found);
        found
    }
}

fn write<'a>(parts: &'a [Part], stage: usize, lines: &mut Vec<&'a str>) {
    for part in parts {
        match part {
            Part::Line(line) => lines.push(line),
            Part::Place { step, after, .. } if *step <= stage => write(after, stage, lines),
            Part::Place { before, .. } => lines.extend(before.iter().map(String::as_str)),
        }
    }
}

fn find_places(parts: &[Part], wanted: usize, found: &mut Vec<String>) {
    for part in parts {
        let Part::Place { step, after, .. } = part else { continue };
        if *step == wanted && !after.is_empty() {
            let mut lines = Vec::new();
            write(after, wanted, &mut lines);
            // A place may begin or end with an empty line, which belongs to the file but not to the text.
            found.push(join(&lines).trim_matches('\n').to_owned() + "\n");
        } else {
            find_places(after, wanted, found);
        }
    }
}

fn join(lines: &[&str]) -> String {
    lines.iter().flat_map(|line| [*line, "\n"]).collect()
}
