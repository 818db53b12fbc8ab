//! A reader that types the commands of a document.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::blocks::{Action, Block, FIRST_TERMINAL};
use super::output::{are_as_shown, is_as_shown};
use crate::harness::{PATIENCE, Scratch, eventually, tool};

/// The marker that a terminal prints when a command has ended.
const DONE: &str = "--the command has ended--";

/// Types the blocks of a document into terminals and compares the output.
pub struct Reader {
    scratch: Scratch,
    terminals: BTreeMap<String, Terminal>,
}

impl Reader {
    /// A reader in a directory that looks like a fresh clone of `root` after a build.
    pub fn new(root: &Path) -> Self {
        // This may take a minute, so no terminal waits for it.
        let _ = tool("pilcrow-up");
        let scratch = Scratch::in_memory();
        let release = scratch.file("target/release");
        fs::create_dir_all(&release).unwrap();
        fs::create_dir_all(scratch.file("bin")).unwrap();
        for program in binaries() {
            symlink(&program, release.join(program.file_name().unwrap())).unwrap();
        }
        for folder in ["examples", "deploy", "docs", "bench"] {
            symlink(root.join(folder), scratch.file(folder)).unwrap();
        }
        // On a terminal curl shows no progress beside an answer. Here a setting must turn it off.
        fs::write(scratch.file("bin/.curlrc"), "silent\nshow-error\n").unwrap();
        let cargo = scratch.file("bin/cargo");
        fs::write(&cargo, cargo_script()).unwrap();
        fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
        let mut reader = Self { scratch, terminals: BTreeMap::new() };
        reader.reset();
        reader
    }

    /// Types the blocks one after the other.
    pub fn read(&mut self, document: &str, blocks: &[Block]) {
        for block in blocks {
            let place = format!("{document}:{}", block.line);
            match &block.action {
                Action::Fresh => self.reset(),
                Action::Stop(name) => self.terminal(name).interrupt(&place),
                Action::Type(name) => self.terminal(name).type_line(&block.text.join("\n")),
                Action::Terminal(name) => self.terminal(name).run(&place, block, name != FIRST_TERMINAL),
                Action::NotRun(_) | Action::Shown => {}
            }
        }
    }

    fn reset(&mut self) {
        self.terminals.clear();
        let data = self.scratch.file("data");
        let _ = fs::remove_dir_all(&data);
        fs::create_dir_all(&data).unwrap();
    }

    fn terminal(&mut self, name: &str) -> &mut Terminal {
        let directory = self.scratch.path();
        self.terminals.entry(name.to_owned()).or_insert_with(|| Terminal::open(directory))
    }
}

fn binaries() -> [PathBuf; 3] {
    [env!("CARGO_BIN_EXE_gateway"), env!("CARGO_BIN_EXE_distributor"), env!("CARGO_BIN_EXE_users")]
        .map(PathBuf::from)
}

/// A replacement for cargo. The cargo of this test has already built the documents' programs, without optimisation.
fn cargo_script() -> String {
    let [gateway, distributor, users] = binaries();
    let built = gateway.parent().unwrap().display().to_string();
    let message = |name: &str, path: &Path| {
        format!(r#"echo '{{"target":{{"name":"{name}"}},"executable":"{}"}}'"#, path.display())
    };
    format!(
        r#"#!/usr/bin/env bash
set -e
case "$*" in
  up*)
    shift
    USERS_DATABASE="$PWD/data/users.db" CARGO="$0" exec "{built}/pilcrow-up" "$@" ;;
  tap*)
    shift
    exec "{built}/pilcrow-tap" "$@" ;;
  look*)
    shift
    exec "{built}/pilcrow-look" "$@" ;;
  *--message-format*) {distributor}; {users}; {gateway}; {look}; {tap} ;;
  build*) ;;
  "run --example "*) exec "{built}/examples/$3" "${{@:5}}" ;;
  *) echo "the test plays no cargo $*" >&2; exit 1 ;;
esac
"#,
        distributor = message("distributor", &distributor),
        users = message("users", &users),
        gateway = message("gateway", &gateway),
        look = message("pilcrow-look", &tool("pilcrow-look")),
        tap = message("pilcrow-tap", &tool("pilcrow-tap")),
    )
}

/// The output of a terminal.
#[derive(Default)]
struct Printed {
    lines: Vec<String>,
    /// The last line while it is incomplete: a packet has no line end.
    unfinished: Vec<u8>,
}

impl Printed {
    fn add(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.unfinished.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.unfinished);
                self.lines.push(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned());
            }
        }
    }

    /// The lines from this one on, including the incomplete one.
    fn from(&self, first: usize) -> Vec<String> {
        let unfinished = Some(String::from_utf8_lossy(&self.unfinished).into_owned());
        let unfinished = unfinished.filter(|line| !line.is_empty());
        self.lines.iter().cloned().chain(unfinished).skip(first).collect()
    }
}

/// A shell, its input and its output.
struct Terminal {
    shell: Child,
    keyboard: ChildStdin,
    printed: Arc<Mutex<Printed>>,
    /// The number of printed lines that have been compared.
    compared: usize,
}

impl Terminal {
    fn open(directory: &Path) -> Self {
        let path =
            format!("{}:{}", directory.join("bin").display(), std::env::var("PATH").unwrap_or_default());
        let mut shell = Command::new("bash")
            .args(["--norc", "--noprofile", "-c", "exec 2>&1; exec bash --norc --noprofile"])
            .current_dir(directory)
            .env("PATH", path)
            .env("CURL_HOME", directory.join("bin"))
            .env("LC_ALL", "C.UTF-8")
            .env_remove("RUST_LOG")
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (keyboard, mut screen) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
        let printed: Arc<Mutex<Printed>> = Arc::default();
        let shared = printed.clone();
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut piece) {
                shared.lock().unwrap().add(&piece[..count]);
            }
        });
        Self { shell, keyboard, printed, compared: 0 }
    }

    fn type_line(&mut self, text: &str) {
        writeln!(self.keyboard, "{text}").unwrap();
        self.keyboard.flush().unwrap();
    }

    /// Runs the commands of a block, each with the output that the document shows after it.
    fn run(&mut self, place: &str, block: &Block, may_go_on: bool) {
        let mut shown = block.text.as_slice();
        let commands = block.text.iter().filter(|line| line.starts_with("$ ")).count();
        let (before, _) = split_at_command(shown);
        if commands == 0 {
            return self.expect_among(place, before);
        }
        for number in 1..=commands {
            let command = shown[0].strip_prefix("$ ").unwrap();
            let (expected, rest) = split_at_command(&shown[1..]);
            shown = rest;
            self.compared = self.printed.lock().unwrap().lines.len();
            if may_go_on && number == commands {
                // The reader types nothing more, because a running program would read it.
                self.type_line(command);
                self.expect_among(&format!("{place}: {command}"), expected);
            } else {
                // `printf` starts a new line, because not every program ends its last one.
                self.type_line(&format!("{command}\nprintf '\\n%s\\n' '{DONE}'"));
                self.expect_exactly(&format!("{place}: {command}"), expected);
            }
        }
    }

    /// Waits until the command has ended, and compares all its output.
    fn expect_exactly(&mut self, place: &str, expected: &[String]) {
        let mut printed = self.wait_for(&format!("{place} has ended"), |lines| {
            let end = lines.iter().position(|line| line == DONE)?;
            Some(lines[..end].to_vec())
        });
        if printed.last().is_some_and(String::is_empty) {
            printed.pop();
        }
        // A document may omit unimportant output. It then shows none at all.
        if expected.is_empty() {
            return;
        }
        let is_same = are_as_shown(expected, &printed);
        let (shown, printed) = (expected.join("\n"), printed.join("\n"));
        assert!(is_same, "{place}\nthe document shows:\n{shown}\nprinted was:\n{printed}");
    }

    /// Waits until the terminal has printed these lines in this order, possibly with others between them.
    fn expect_among(&mut self, place: &str, expected: &[String]) {
        for shown in expected.iter().filter(|line| !line.is_empty()) {
            let found = self.wait_for(&format!("{place} shows `{shown}`"), |lines| {
                lines.iter().position(|line| is_as_shown(shown, line))
            });
            self.compared += found + 1;
        }
    }

    /// Checks the terminal's output since the last comparison until `look` finds a match.
    fn wait_for<T>(&self, what: &str, look: impl Fn(&[String]) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lines = self.printed.lock().unwrap().from(self.compared);
            if let Some(found) = look(&lines) {
                return found;
            }
            assert!(Instant::now() < deadline, "waited until {what}; printed was:\n{}", lines.join("\n"));
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ctrl-C: the signal goes to the shell's current command, and the shell continues.
    fn interrupt(&mut self, place: &str) {
        let running = children_of(self.shell.id());
        assert!(!running.is_empty(), "{place}: nothing runs in this terminal");
        signal(&running, Signal::SIGINT);
        eventually("the program has ended", || children_of(self.shell.id()).is_empty().then_some(()));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let running = children_of(self.shell.id());
        let _ = self.shell.kill();
        signal(&running, Signal::SIGTERM);
        let _ = self.shell.wait();
        let is_alive = |process: &u32| Path::new(&format!("/proc/{process}")).exists();
        let ended = (0..2000).any(|_| {
            let alive = running.iter().any(is_alive);
            if alive {
                thread::sleep(Duration::from_millis(5));
            }
            !alive
        });
        if !ended {
            signal(&running, Signal::SIGKILL);
        }
    }
}

fn split_at_command(lines: &[String]) -> (&[String], &[String]) {
    let at = lines.iter().position(|line| line.starts_with("$ ")).unwrap_or(lines.len());
    lines.split_at(at)
}

fn children_of(process: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|one| one.parse().ok()).collect()
}

fn signal(processes: &[u32], signal: Signal) {
    for process in processes {
        let _ = kill(Pid::from_raw(i32::try_from(*process).unwrap()), signal);
    }
}
