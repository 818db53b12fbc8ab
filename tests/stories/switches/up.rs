//! `cargo up` on free ports, with a keyboard.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Http, SECRET, Scratch, eventually, free_port, tool};

/// `cargo up`, which ends with the story.
pub struct Up {
    child: Child,
    keyboard: ChildStdin,
    shown: Arc<Mutex<Vec<String>>>,
    stderr: Arc<Mutex<Vec<String>>>,
    users_port: u16,
    scratch: Scratch,
}

/// The page, or what the script does that plays it.
pub enum Page {
    /// The real one.
    Real,
    /// Writes down what it reads, and sends this command first.
    Runs(String),
    /// There is no such program.
    Missing,
    /// Ends before it listens.
    CannotListen,
    /// Ends when it has heard of the processes.
    EndsSoon,
}

/// A process that `cargo up` has started.
pub struct Started(Pid);

impl Page {
    pub fn sends(command: &str) -> Self {
        Self::Runs(command.to_owned())
    }

    fn script(&self, heard: &Path) -> String {
        let ready = "echo \"the flags of the page: $*\"\necho look listening on 127.0.0.1:1\n";
        let then = match self {
            Self::Real | Self::Missing => String::new(),
            Self::CannotListen => return "#!/bin/sh\necho the port is in use >&2; exit 1\n".to_owned(),
            Self::EndsSoon => "read line\n".to_owned(),
            Self::Runs(command) => format!("echo 'switch: {command}'\nexec cat >'{}'\n", heard.display()),
        };
        format!("#!/bin/sh\n{ready}{then}")
    }
}

impl Up {
    /// `cargo up` with this many instances of `users` and without the page.
    pub fn start(users: u16) -> Self {
        Self::run(&["--no-look", "--users", &users.to_string()], &Page::Missing, &[])
    }

    pub fn with_page(page: &Page) -> Self {
        Self::run(&[], page, &[])
    }

    pub fn secured(page: &Page) -> Self {
        Self::run(&[], page, &[("PILCROW_SECRET", SECRET)])
    }

    fn run(flags: &[&str], page: &Page, variables: &[(&str, &str)]) -> Self {
        let scratch = Scratch::in_memory();
        let distributor = format!("127.0.0.1:{}", free_port());
        let users_port = two_free_ports();
        let mut command = Command::new(tool("pilcrow-up"));
        for (name, _) in std::env::vars() {
            if ["PILCROW_", "GATEWAY_", "USERS_", "DISTRIBUTOR_", "LOOK_", "RUST_LOG", "HOST"]
                .iter()
                .any(|ours| name.starts_with(ours))
            {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(flags)
            .env("CARGO", play_cargo(&scratch, page))
            .env("DISTRIBUTOR_LISTEN", &distributor)
            .env("PILCROW_DISTRIBUTOR", &distributor)
            .env("USERS_LISTEN", format!("127.0.0.1:{users_port}"))
            .env("USERS_DATABASE", scratch.file("users.db"))
            .env("GATEWAY_LISTEN", "127.0.0.1:0")
            .env("GATEWAY_TIMEOUT", "2")
            .env("LOOK_LISTEN", "127.0.0.1:0")
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let keyboard = child.stdin.take().unwrap();
        let shown = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        let up = Self { child, keyboard, shown, stderr, users_port, scratch };
        up.await_line("Ctrl-C stops everything.");
        up
    }

    pub fn users_port(&self) -> u16 {
        self.users_port
    }

    /// The file with all that the page has read.
    pub fn heard_by_the_page(&self) -> PathBuf {
        self.scratch.file("heard")
    }

    /// Types a command, and waits for a new line that begins like this.
    pub fn command(&self, command: &str, answer: &str) {
        let before = self.shown.lock().unwrap().len();
        writeln!(&self.keyboard, "{command}").unwrap();
        self.await_line_after(before, answer);
    }

    /// Waits for a line that begins like this.
    pub fn await_line(&self, beginning: &str) {
        self.await_line_after(0, beginning);
    }

    fn await_line_after(&self, before: usize, beginning: &str) {
        eventually(&format!("`cargo up` shows `{beginning}`"), || {
            let shown = self.shown.lock().unwrap();
            shown[before..].iter().any(|line| line.contains(beginning)).then_some(())
        });
    }

    /// Whether a line has contained this text.
    pub fn shows(&self, text: &str) -> bool {
        self.shown.lock().unwrap().iter().any(|line| line.contains(text))
    }

    /// Its whole error output.
    pub fn stderr(&self) -> String {
        eventually("stderr is closed", || (Arc::strong_count(&self.stderr) == 1).then_some(()));
        self.stderr.lock().unwrap().join("\n")
    }

    /// A client of the gateway.
    pub fn http(&self) -> Http {
        self.http_of("gateway")
    }

    /// A client of the process that was the first to listen under this name.
    pub fn http_of(&self, name: &str) -> Http {
        Http::by_address(self.address_of(name))
    }

    pub fn address_of(&self, name: &str) -> SocketAddr {
        let shown = self.shown.lock().unwrap();
        let ready = format!("{name} listening on ");
        let address = shown.iter().find_map(|line| line.split_once(&ready)).unwrap().1;
        address.parse().unwrap()
    }

    /// Waits until the gateway distributes reads over this many instances.
    pub fn await_instances(&self, count: usize) {
        eventually(&format!("{count} instances answer"), || {
            let rows = self.http().get("/routes").results();
            let row =
                rows.as_array()?.iter().find(|row| row["method"] == "GET" && row["path"] == "/users")?;
            (row["instances"].as_array()?.len() == count).then_some(())
        });
    }

    /// The processes that it has started and that still run.
    pub fn children(&self) -> Vec<Started> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        children.split_whitespace().map(|child| Started(Pid::from_raw(child.parse().unwrap()))).collect()
    }

    /// Sends a signal, and waits for the exit status.
    pub fn end_by(&mut self, signal: Signal) -> Option<i32> {
        let id = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(id, signal).unwrap();
        self.await_end()
    }

    pub fn await_end(&mut self) -> Option<i32> {
        eventually("`cargo up` has ended", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- cargo up ---\n{}", self.shown.lock().unwrap().join("\n"));
        }
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.end_by(Signal::SIGTERM);
        }
    }
}

impl Started {
    pub fn exists(&self) -> bool {
        kill(self.0, None).is_ok()
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.0, signal).unwrap();
    }

    /// Whether its flags contain this port.
    pub fn listens_on(&self, port: u16) -> bool {
        let flags = fs::read_to_string(format!("/proc/{}/cmdline", self.0)).unwrap_or_default();
        flags.split('\0').any(|flag| flag == format!("127.0.0.1:{port}"))
    }
}

/// Writes the script that plays cargo: it names the programs, as cargo does after a build.
fn play_cargo(scratch: &Scratch, page: &Page) -> PathBuf {
    let mut programs = vec![
        ("gateway", PathBuf::from(env!("CARGO_BIN_EXE_gateway"))),
        ("distributor", PathBuf::from(env!("CARGO_BIN_EXE_distributor"))),
        ("users", PathBuf::from(env!("CARGO_BIN_EXE_users"))),
        ("pilcrow-tap", tool("pilcrow-tap")),
    ];
    match page {
        Page::Real => programs.push(("pilcrow-look", tool("pilcrow-look"))),
        Page::Missing => programs.push(("pilcrow-look", scratch.file("missing"))),
        page => {
            let script = page.script(&scratch.file("heard"));
            programs.push(("pilcrow-look", write_script(scratch, "look", &script)));
        }
    }
    let messages = programs.iter().map(|(name, path)| {
        format!("echo '{{\"target\":{{\"name\":\"{name}\"}},\"executable\":\"{}\"}}'\n", path.display())
    });
    write_script(scratch, "cargo", &format!("#!/bin/sh\n{}", messages.collect::<String>()))
}

/// Another process writes the script: if this one did, a child of another story could hold it open for writing while it
/// is started ("text file busy").
fn write_script(scratch: &Scratch, name: &str, text: &str) -> PathBuf {
    let path = scratch.file(name);
    let mut writer = Command::new("sh")
        .args(["-c", "cat >\"$0\"", path.to_str().unwrap()])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The first of two free ports beside each other. No other story of this process gets one of them.
fn two_free_ports() -> u16 {
    loop {
        let (first, second) = (free_port(), free_port());
        if second == first + 1 {
            return first;
        }
    }
}

fn collect(pipe: impl Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let shared = lines.clone();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            shared.lock().unwrap().push(line);
        }
    });
    lines
}
