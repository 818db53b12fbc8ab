//! The builder for all processes of the stories.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write;
#[cfg(unix)]
use std::net::TcpListener;
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Output, PATIENCE, Process, Scratch, Watched, secrets};

/// A program that has not started yet: its flags, variables and everything else that it starts with.
pub struct Program {
    path: String,
    flags: Vec<String>,
    /// Whether it listens on a free port, unless its flags contain `--listen`.
    uses_free_port: bool,
    variables: Vec<(String, String)>,
    directory: PathBuf,
    stdin: Stdin,
    reads_stderr: bool,
    /// How long it may run until it exits.
    patience: Duration,
    /// Commands that prepare the process and then become the program. So there is one process with one id.
    preparation: Vec<String>,
}

enum Stdin {
    Empty,
    Text(String),
    #[cfg(unix)]
    Socket(TcpListener),
}

impl Program {
    /// The program at this path, or with this name on the `PATH`.
    pub fn at(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            flags: Vec::new(),
            uses_free_port: false,
            variables: vec![("RUST_LOG".to_owned(), "debug".to_owned())],
            directory: Path::new(env!("CARGO_TARGET_TMPDIR")).to_owned(),
            stdin: Stdin::Empty,
            reads_stderr: true,
            patience: PATIENCE,
            preparation: Vec::new(),
        }
    }

    pub fn distributor() -> Self {
        Self { uses_free_port: true, ..Self::at(env!("CARGO_BIN_EXE_distributor")) }
    }

    /// A users instance on the database of this story. It joins the distributors at these addresses, which are
    /// separated by commas. They need not run yet.
    pub fn users(distributors: impl Display, scratch: &Scratch) -> Self {
        let (distributors, database) = (distributors.to_string(), scratch.file("users.db"));
        let users = Self { uses_free_port: true, ..Self::at(env!("CARGO_BIN_EXE_users")) };
        users.flags(["--distributor", &distributors, "--database", database.to_str().unwrap()])
    }

    /// A gateway. It joins the distributors at these addresses, which are separated by commas. They need not run yet.
    pub fn gateway(distributors: impl Display) -> Self {
        let gateway = Self { uses_free_port: true, ..Self::at(env!("CARGO_BIN_EXE_gateway")) };
        gateway.flags(["--distributor", &distributors.to_string()])
    }

    /// Adds flags.
    pub fn flags(mut self, flags: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.flags.extend(flags.into_iter().map(|flag| flag.as_ref().to_owned()));
        self
    }

    /// Adds environment variables. The log level is `debug`, unless `RUST_LOG` is among them.
    pub fn variables(mut self, variables: &[(&str, &str)]) -> Self {
        let owned = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.variables.extend(owned);
        self
    }

    /// Sets these environment variables and no others. Without `RUST_LOG`, the log has its default level.
    pub fn only_variables(mut self, variables: &[(&str, &str)]) -> Self {
        self.variables.clear();
        self.variables(variables)
    }

    /// The working directory.
    pub fn directory(mut self, directory: &Path) -> Self {
        directory.clone_into(&mut self.directory);
        self
    }

    /// The text on its stdin. The first line counts as a secret.
    pub fn stdin(mut self, text: &str) -> Self {
        secrets::learn(text.lines().next().unwrap_or_default());
        self.stdin = Stdin::Text(text.to_owned());
        self
    }

    /// Limits the number of descriptors that the process may have open at a time.
    #[cfg(unix)]
    pub fn max_descriptors(self, limit: u32) -> Self {
        let script = "ulimit -n \"$0\" && exec \"$@\"";
        self.started_by(&["/bin/sh", "-c", script, &limit.to_string()])
    }

    /// The process inherits this listening socket, as from systemd.
    #[cfg(unix)]
    pub fn socket(mut self, socket: &TcpListener) -> Self {
        self.uses_free_port = false;
        self.stdin = Stdin::Socket(socket.try_clone().unwrap());
        // The protocol requires descriptor 3 and the id of the process.
        let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
        self.started_by(&["/bin/sh", "-c", script, "sh"])
    }

    /// This command starts the program, whose path and flags follow the words of the command. Of several commands,
    /// the first one starts the next.
    pub fn started_by(mut self, command: &[&str]) -> Self {
        self.preparation.extend(command.iter().map(ToString::to_string));
        self
    }

    /// The harness does not read its stderr. The story gets it from [`Process::take_stderr`].
    pub fn unread_stderr(mut self) -> Self {
        self.reads_stderr = false;
        self
    }

    /// It may run for this long until it exits, since it does more than most.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts it, and waits for the line `<name> listening on <address>` on its stdout.
    pub fn start(self) -> Process {
        let (name, reads_stderr) = (format!("{} {:?}", self.path, self.flags), self.reads_stderr);
        Process::await_ready(self.spawn(), &name, reads_stderr)
    }

    /// Runs it until it exits without a signal.
    pub fn run(self) -> Output {
        let patience = self.patience;
        Output::of(self.spawn(), patience)
    }

    /// Starts a program that prints lines until it is dropped.
    pub fn watch(self) -> Watched {
        Watched::of(self.spawn())
    }

    fn spawn(mut self) -> Child {
        if self.uses_free_port && !self.flags.iter().any(|flag| flag == "--listen") {
            self = self.flags(["--listen", "127.0.0.1:0"]);
        }
        secrets::learn_from_settings(&self.flags, &self.variables);
        let words = [self.preparation, vec![self.path], self.flags].concat();
        let mut command = Command::new(&words[0]);
        for name in settings_of_the_user() {
            command.env_remove(name);
        }
        let (stdin, text) = match self.stdin {
            Stdin::Empty => (Stdio::null(), None),
            Stdin::Text(text) => (Stdio::piped(), Some(text)),
            #[cfg(unix)]
            Stdin::Socket(socket) => (Stdio::from(OwnedFd::from(socket)), None),
        };
        let mut child = command
            .args(&words[1..])
            .envs(self.variables)
            .current_dir(self.directory)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{words:?} does not start: {error}"));
        if let (Some(text), Some(mut stdin)) = (text, child.stdin.take()) {
            // It may exit without reading.
            let _ = stdin.write_all(text.as_bytes());
        }
        child
    }
}

/// The names of the settings in the user's own environment. They must not reach the processes.
fn settings_of_the_user() -> impl Iterator<Item = OsString> {
    const COURSE: [&str; 5] = ["HOST", "GATE_PORT", "DIS_PORT", "USERS_PORT", "RUST_LOG"];
    const OURS: [&str; 5] = ["PILCROW_", "GATEWAY_", "USERS_", "DISTRIBUTOR_", "LOOK_"];
    let is_setting =
        |name: &str| COURSE.contains(&name) || OURS.iter().any(|prefix| name.starts_with(prefix));
    std::env::vars_os().map(|(name, _)| name).filter(move |name| name.to_str().is_some_and(is_setting))
}
