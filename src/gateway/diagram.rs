//! Draws an explanation as a sequence diagram in text: time runs downwards, and each process has a column.
//!
//! The steps of another process have times of its own clock. They are placed between the request and its reply: the
//! time that remains is network and waiting, and each way gets half. Such times are marked with `≈`.
//!
//! All text is untrusted, so control characters are escaped.

use std::fmt::Write;

use crate::packet::explain::{DATABASE, Direction, Step};
use crate::process::on_one_line;

/// The width of a column, in characters. An address such as `127.0.0.1:19020` fits.
const COLUMN: usize = 16;

/// The width of the times at the left.
const TIMES: usize = 18;

/// The width of the text at the right.
const TEXT: usize = 60;

/// The column of the HTTP client, and the column of the gateway.
const CLIENT: usize = 0;
const GATEWAY: usize = 1;

/// A column: the name and the address of a process, or the database of one.
struct Column {
    /// What identifies it: the address, or for a database the column of its process.
    key: ColumnKey,
    name: String,
}

#[derive(PartialEq, Eq)]
enum ColumnKey {
    Client,
    Gateway,
    Process(String),
    Database(usize),
}

/// A row of the diagram.
struct Event<'a> {
    at_us: u64,
    /// The time since the previous step of the same process.
    took_us: Option<u64>,
    is_estimate: bool,
    from: usize,
    /// The other end of an arrow.
    to: Option<usize>,
    text: String,
    file: &'a str,
}

/// The whole diagram. `request` is the request line; `answer` is the status and the body.
#[must_use]
pub fn draw(steps: &[Step], request: &str, answer: &str) -> String {
    let mut diagram = Diagram::new();
    let first = Event {
        at_us: 0,
        took_us: None,
        is_estimate: false,
        from: CLIENT,
        to: Some(GATEWAY),
        text: request.to_owned(),
        file: "",
    };
    diagram.events.push(first);
    diagram.add(steps, 0, GATEWAY, false);
    let mut out = diagram.print();
    out.push('\n');
    for line in answer.lines() {
        let _ = writeln!(out, "{}", on_one_line(line.to_owned()));
    }
    out
}

struct Diagram<'a> {
    columns: Vec<Column>,
    events: Vec<Event<'a>>,
}

impl<'a> Diagram<'a> {
    fn new() -> Self {
        let column = |key, name: &str| Column { key, name: name.to_owned() };
        Self {
            columns: vec![column(ColumnKey::Client, "client"), column(ColumnKey::Gateway, "gateway")],
            events: Vec::new(),
        }
    }

    fn column(&mut self, key: ColumnKey, name: &str) -> usize {
        if let Some(known) = self.columns.iter().position(|column| column.key == key) {
            if !name.is_empty() {
                name.clone_into(&mut self.columns[known].name);
            }
            return known;
        }
        self.columns.push(Column { key, name: name.to_owned() });
        self.columns.len() - 1
    }

    /// Adds the steps of the process in column `me`. Its clock began at `base_us`.
    fn add(&mut self, steps: &'a [Step], base_us: u64, me: usize, is_estimate: bool) {
        let (mut before, mut sent) = (None, Vec::<(&str, u64)>::new());
        for step in steps {
            let mut event = Event {
                at_us: base_us.saturating_add(step.at_us),
                took_us: Some(step.at_us.saturating_sub(before.unwrap_or(0))),
                is_estimate,
                from: me,
                to: None,
                text: step.text.clone(),
                file: &step.file,
            };
            before = Some(step.at_us);
            if step.place.as_deref() == Some(DATABASE) {
                event.from = self.column(ColumnKey::Database(me), DATABASE);
            }
            if let Some(packet) = &step.packet {
                let (bytes, text) = (packet.bytes, &packet.packet);
                let _ = write!(event.text, ": {bytes} bytes\n{text}¶");
                match &packet.direction {
                    Direction::To(peer) => {
                        event.to = Some(self.column(ColumnKey::Process(peer.clone()), ""));
                        sent.push((peer, step.at_us));
                    }
                    Direction::From(peer) => {
                        event.from = self.column(ColumnKey::Process(peer.clone()), "");
                        event.to = Some(me);
                        let sent = sent.iter().rev().find(|(to, _)| to == peer).map_or(0, |(_, at)| *at);
                        self.add_nested(&step.explain, peer, base_us, (sent, step.at_us), &mut event);
                    }
                }
            }
            self.events.push(event);
        }
    }

    /// Adds the steps of the process that replied, between the request and the reply.
    fn add_nested(
        &mut self,
        steps: &'a [Step],
        peer: &str,
        base_us: u64,
        (sent, received): (u64, u64),
        reply: &mut Event<'a>,
    ) {
        let (Some(first), Some(last)) = (steps.first(), steps.last()) else { return };
        let name = first.place.as_deref().unwrap_or_default();
        let column = self.column(ColumnKey::Process(peer.to_owned()), name);
        let network = received.saturating_sub(sent).saturating_sub(last.at_us);
        self.add(steps, base_us.saturating_add(sent + network / 2), column, true);
        let _ = write!(reply.text, "\n≈ {network} µs were network and waiting, both ways together");
        reply.took_us = Some(network / 2);
    }

    fn print(&self) -> String {
        let mut out = String::new();
        let names = self.columns.iter().map(|column| column.name.as_str());
        print_head(&mut out, ("ms", "µs"), names);
        let addresses = self.columns.iter().map(|column| match &column.key {
            ColumnKey::Process(address) => address.as_str(),
            _ => "",
        });
        print_head(&mut out, ("", ""), addresses);
        for event in &self.events {
            self.print_event(&mut out, event);
        }
        out
    }

    fn print_event(&self, out: &mut String, event: &Event<'_>) {
        let milliseconds = std::time::Duration::from_micros(event.at_us).as_secs_f64() * 1000.0;
        let mark = if event.is_estimate { "≈" } else { "" };
        let took = event.took_us.map_or_else(String::new, |took| format!("+{took}"));
        let mut times = format!("{:>9}{took:>8} ", format!("{mark}{milliseconds:.3}"));
        let mut lifelines = self.lifelines(event);
        let mut text = event.text.clone();
        if !event.file.is_empty() {
            let end = text.find('\n').unwrap_or(text.len());
            text.insert_str(end, &format!(" · {}", event.file));
        }
        for line in text.lines().flat_map(|line| wrap(&on_one_line(line.to_owned()))) {
            let _ = writeln!(out, "{}", format!("{times}{lifelines}  {line}").trim_end());
            times = " ".repeat(TIMES);
            lifelines = self.bare_lifelines();
        }
    }

    fn bare_lifelines(&self) -> String {
        format!("{:^COLUMN$}", "│").repeat(self.columns.len())
    }

    /// The lifelines, with a dot where something happens, or with an arrow.
    fn lifelines(&self, event: &Event<'_>) -> String {
        let mut line: Vec<char> = self.bare_lifelines().chars().collect();
        let center = |column: usize| column * COLUMN + (COLUMN - 1) / 2;
        match event.to {
            None => line[center(event.from)] = '●',
            Some(to) => {
                let (begin, end) = (center(event.from), center(to));
                line[begin.min(end) + 1..begin.max(end)].fill('─');
                let (start, head) = if begin < end { ('├', '►') } else { ('┤', '◄') };
                line[begin] = start;
                line[if begin < end { end - 1 } else { end + 1 }] = head;
            }
        }
        line.into_iter().collect()
    }
}

fn print_head<'a>(out: &mut String, times: (&str, &str), cells: impl Iterator<Item = &'a str>) {
    let mut line = format!("{:>9}{:>8} ", times.0, times.1);
    for cell in cells {
        let _ = write!(line, "{:^COLUMN$}", shorten(&on_one_line(cell.to_owned())));
    }
    let _ = writeln!(out, "{}", line.trim_end());
}

/// The text, cut to the width of a column.
fn shorten(text: &str) -> String {
    if text.chars().count() < COLUMN {
        text.to_owned()
    } else {
        text.chars().take(COLUMN - 2).chain(['…']).collect()
    }
}

/// The lines of a text that is too long for one. A space ends a line if there is one, since a packet has few.
fn wrap(line: &str) -> Vec<String> {
    let mut rest: Vec<char> = line.chars().collect();
    let mut lines = Vec::new();
    while rest.len() > TEXT {
        let space = rest[..TEXT].iter().rposition(|one| *one == ' ').filter(|at| *at > TEXT / 2);
        let tail = rest.split_off(space.map_or(TEXT, |at| at + 1));
        lines.push(rest.iter().collect::<String>().trim_end().to_owned());
        rest = tail;
    }
    lines.push(rest.into_iter().collect());
    lines
}
