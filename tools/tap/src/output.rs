//! The two outputs: stdout, and the file of `--record`. A thread writes each of them.
//!
//! The packets never wait for stdout. If it is slower than the packets, lines are skipped and a line says how many.
//! A recording is complete, so the packets wait for its file.

use std::env;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use pilcrow::pool::no_thread;

use crate::line::Line;

/// How many lines may wait for stdout, and how many bytes of a packet each may hold: 16 MiB in all.
const SCREEN_LINES: usize = 1024;
const SCREEN_PACKET_BYTES: usize = 16 * 1024;

/// How many lines may wait for the file. Each may hold a packet of the longest size.
const RECORDING_LINES: usize = 16;

/// How long the last lines may take at the end.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the lines go.
pub struct Output {
    started: Instant,
    screen: LineWriter,
    recording: Option<LineWriter>,
    form: Form,
    /// How many lines stdout was too slow for.
    skipped: Arc<AtomicU64>,
}

/// How a line is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Text { has_colour: bool },
}

/// The queue of a thread that writes lines.
struct LineWriter {
    /// `None` ends the thread.
    lines: Sender<Option<Arc<Line>>>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl Output {
    /// Opens both outputs. A person at a terminal gets text, a program gets JSON.
    pub fn start(recording: Option<&Path>) -> Result<Self, String> {
        let is_colour_unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let form = if io::stdout().is_terminal() {
            Form::Text { has_colour: !is_colour_unwanted }
        } else {
            Form::Json
        };
        let skipped = Arc::new(AtomicU64::new(0));
        let screen = LineWriter::start("tap screen", io::stdout(), form, SCREEN_LINES, skipped.clone())?;
        let recording = recording.map(|file| {
            let created = File::create(file)
                .map_err(|error| format!("cannot write the recording {}: {error}", file.display()))?;
            LineWriter::start("tap recording", created, Form::Json, RECORDING_LINES, Arc::default())
        });
        Ok(Self { started: Instant::now(), screen, recording: recording.transpose()?, form, skipped })
    }

    /// Explains the signs, for people.
    pub fn introduce(&self) {
        if self.form != Form::Json {
            let words = "seconds, # connection, → to the node, ← from the node, ¶ ends a packet. Ctrl-C ends the tap.";
            self.note(0, words);
        }
    }

    /// Shows and records a line about this connection.
    pub fn line(&self, connection: u64, line: Line) {
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let line = Arc::new(Line { ms, connection, ..line });
        if self.screen.lines.try_send(Some(Arc::new(line.shortened(SCREEN_PACKET_BYTES)))).is_err() {
            self.skipped.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(recording) = &self.recording {
            // An error means that the file cannot be written, which the log has said.
            let _ = recording.lines.send(Some(line));
        }
    }

    /// Shows and records a note about this connection.
    pub fn note(&self, connection: u64, note: impl Into<String>) {
        self.line(connection, Line::of_note(note));
    }

    /// Writes the last lines.
    pub fn finish(&self) {
        for writer in [Some(&self.screen), self.recording.as_ref()].into_iter().flatten() {
            if writer.lines.send_timeout(None, END_TIMEOUT).is_ok() {
                let _ = writer.ended.recv_timeout(END_TIMEOUT);
            }
        }
    }
}

impl LineWriter {
    fn start(
        name: &'static str,
        out: impl Write + Send + 'static,
        form: Form,
        limit: usize,
        skipped: Arc<AtomicU64>,
    ) -> Result<Self, String> {
        let (lines, queue) = bounded(limit);
        let (ends, ended) = bounded(0);
        let write = move || {
            // Nothing is ever sent. The thread drops its end.
            let _ends: Sender<()> = ends;
            // A closed stdout, as of `head`, must not stop the packets.
            if let Err(error) = write_lines(&queue, BufWriter::new(out), form, &skipped) {
                log::warn!("{name}: no further packet is written: {error}");
            }
        };
        thread::Builder::new().name(name.to_owned()).spawn(write).map_err(no_thread)?;
        Ok(Self { lines, ended })
    }
}

/// Writes until the end, and flushes whenever no line waits.
fn write_lines(
    queue: &Receiver<Option<Arc<Line>>>,
    mut out: impl Write,
    form: Form,
    skipped: &AtomicU64,
) -> io::Result<()> {
    while let Ok(Some(line)) = queue.recv() {
        let count = skipped.swap(0, Ordering::Relaxed);
        if count > 0 {
            let note = Line::of_note(format!("{count} lines skipped, because this output is too slow"));
            writeln!(out, "{}", form.write(&Line { ms: line.ms, ..note }))?;
        }
        writeln!(out, "{}", form.write(&line))?;
        if queue.is_empty() {
            out.flush()?;
        }
    }
    out.flush()
}

impl Form {
    fn write(self, line: &Line) -> String {
        match self {
            Self::Json => line.as_json(),
            Self::Text { has_colour } => line.as_text(has_colour),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_lines_are_counted_before_the_next_one() {
        let (lines, queue) = bounded(2);
        lines.send(Some(Arc::new(Line { ms: 7, ..Line::of_note("hello") }))).unwrap();
        lines.send(None).unwrap();
        let mut out = Vec::new();
        write_lines(&queue, &mut out, Form::Text { has_colour: false }, &AtomicU64::new(3)).unwrap();
        let out = String::from_utf8(out).unwrap();
        let expected = "     0.007 3 lines skipped, because this output is too slow\n     0.007 hello\n";
        assert_eq!(out, expected);
    }
}
