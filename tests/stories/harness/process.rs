//! Real processes, ended by their ids.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::{Http, Metrics, PATIENCE, Packets, Scratch, eventually, secrets};

/// A process of ours: its address and its log.
pub struct Process {
    child: Child,
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    ready_line: String,
    /// The lines on stdout after the first.
    further_lines: Receiver<String>,
}

/// A program that prints lines until it is dropped.
pub struct Watched {
    child: Expected,
    log: Arc<Mutex<Vec<String>>>,
    lines: Receiver<String>,
}

/// The end of a process.
pub struct Ended {
    pub status: ExitStatus,
    /// The time from the signal to the exit.
    pub took: Duration,
    /// The output on stdout after the ready line.
    pub further_lines: Vec<String>,
    /// Its whole log.
    pub log: Vec<String>,
}

impl Process {
    pub fn distributor(flags: &[&str]) -> Self {
        Self::distributor_with(flags, &[])
    }

    /// A distributor with these variables.
    pub fn distributor_with(flags: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start(env!("CARGO_BIN_EXE_distributor"), &with_port(&[], flags), variables)
    }

    /// A users instance on the database of this story.
    pub fn users(distributor: &Process, scratch: &Scratch, flags: &[&str]) -> Self {
        Self::users_with(distributor, scratch, flags, &[])
    }

    /// A users instance on the database of this story, with these variables.
    pub fn users_with(
        distributor: &Process,
        scratch: &Scratch,
        flags: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let database = scratch.file("users.db");
        let joined = distributor.address().to_string();
        let all = ["--distributor", &joined, "--database", database.to_str().unwrap()];
        Self::start(env!("CARGO_BIN_EXE_users"), &with_port(&all, flags), variables)
    }

    pub fn gateway(distributor: &Process, flags: &[&str]) -> Self {
        Self::gateway_with(distributor, flags, &[])
    }

    /// A gateway with these variables.
    pub fn gateway_with(distributor: &Process, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::gateway_of(&distributor.address().to_string(), flags, variables)
    }

    /// A gateway that joins the distributor at `distributor`, whether it runs yet or not.
    pub fn gateway_at(distributor: &str, flags: &[&str]) -> Self {
        Self::gateway_of(distributor, flags, &[])
    }

    fn gateway_of(distributor: &str, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let all = with_port(&["--distributor", distributor], flags);
        Self::start(env!("CARGO_BIN_EXE_gateway"), &all, variables)
    }

    /// Starts any program that prints `<name> listening on <address>` when it is ready, and waits for that line.
    pub fn start(program: &str, arguments: &[String], variables: &[(&str, &str)]) -> Self {
        Self::await_ready(spawn(program, arguments, variables), program, arguments)
    }

    /// Like `start`, in this directory, and with only these variables. Without any, the log has its default level.
    pub fn start_in(directory: &Path, program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let child = spawn_in(directory, program, &arguments, variables);
        Self::await_ready(child, program, &arguments)
    }

    /// A gateway whose stderr is not read. Returns the pipe.
    pub fn gateway_unread(distributor: &Process, flags: &[&str]) -> (Self, ChildStderr) {
        let joined = distributor.address().to_string();
        let (program, arguments) =
            (env!("CARGO_BIN_EXE_gateway"), with_port(&["--distributor", &joined], flags));
        let mut child = spawn(program, &arguments, &[("RUST_LOG", "info")]);
        let stderr = child.stderr.take().unwrap();
        (Self::await_ready(child, program, &arguments), stderr)
    }

    fn await_ready(mut child: Child, program: &str, arguments: &[String]) -> Self {
        let log = child.stderr.take().map(collect).unwrap_or_default();
        let lines = lines(child.stdout.take().unwrap());
        let ready_line = lines.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let _ = child.kill();
            panic!("{program} {arguments:?} was not ready; it said: {:?}", log.lock().unwrap())
        });
        let address = ready_line.rsplit(' ').next().unwrap().parse().unwrap();
        Self { child, address, log, ready_line, further_lines: lines }
    }

    /// Like `start`, but limits the number of descriptors that the process may have open at a time.
    #[cfg(unix)]
    pub fn start_with_descriptors(limit: u32, program: &str, arguments: &[String]) -> Self {
        // The shell sets the limit and then becomes the program: one process, one id.
        let script = "ulimit -n \"$0\" && exec \"$@\"";
        let mut all = vec!["-c".to_owned(), script.to_owned(), limit.to_string(), program.to_owned()];
        all.extend_from_slice(arguments);
        Self::start("/bin/sh", &all, &[])
    }

    /// A gateway that inherits this listening socket, as from systemd.
    #[cfg(unix)]
    pub fn gateway_on(socket: &TcpListener, distributor: &Process) -> Self {
        // The shell moves the socket to the descriptor that the protocol requires, and becomes the program.
        let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\"";
        let joined = distributor.address().to_string();
        let all = ["-c", script, env!("CARGO_BIN_EXE_gateway"), "--distributor", &joined].map(str::to_owned);
        let stdin = Stdio::from(OwnedFd::from(socket.try_clone().unwrap()));
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let child = spawn_reading(stdin, directory, "/bin/sh", &all, &[("RUST_LOG", "debug")]);
        Self::await_ready(child, "gateway", &all)
    }

    /// Runs a program that should exit without a signal. Returns its exit status, stdout and stderr.
    pub fn run(
        program: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> (Option<i32>, String, String) {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        Self::await_output(spawn(program, &arguments, variables))
    }

    /// Like `run`, in this directory, and with only these variables.
    pub fn run_in(
        directory: &Path,
        program: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> (Option<i32>, String, String) {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        Self::await_output(spawn_in(directory, program, &arguments, variables))
    }

    /// Like `run`, with this on its stdin.
    pub fn run_with_stdin(program: &str, arguments: &[&str], stdin: &str) -> (Option<i32>, String, String) {
        secrets::learn(stdin.lines().next().unwrap_or_default());
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let mut child = spawn_reading(Stdio::piped(), directory, program, &arguments, &[]);
        // It may exit without reading.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        Self::await_output(child)
    }

    fn await_output(child: Child) -> (Option<i32>, String, String) {
        let mut child = Expected(child);
        let log = collect(child.0.stderr.take().unwrap());
        let out = lines(child.0.stdout.take().unwrap());
        let status = await_exit(&mut child.0);
        let out: Vec<String> = out.iter().collect();
        // The pipe's reader may finish a moment after its writer has ended.
        eventually("stderr is closed", || (Arc::strong_count(&log) == 1).then_some(()));
        let log = log.lock().unwrap();
        secrets::assert_untold("a process that has ended", &log);
        let told = log.join("\n");
        (status.code(), out.join("\n"), told)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Its one line on stdout.
    pub fn ready_line(&self) -> &str {
        &self.ready_line
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An HTTP client for it.
    pub fn http(&self) -> Http {
        Http::to(self.address)
    }

    /// A packet connection to it.
    pub fn packets(&self) -> Packets {
        Packets::to(self.address)
    }

    /// Its log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits until a log line contains all of these words, and returns that line.
    pub fn await_log(&self, words: &[&str]) -> String {
        eventually(&format!("the log says {words:?}; it says {:#?}", self.log()), || {
            self.log().into_iter().find(|line| words.iter().all(|word| line.contains(word)))
        })
    }

    /// Kills the process without a goodbye, like a crash.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its metrics, requested by a packet.
    pub fn metrics(&self) -> Metrics {
        let reply = self.packets().call("GET", "/metrics", &serde_json::json!({}), 1);
        Metrics::parse(reply["results"].as_str().unwrap_or_else(|| panic!("no metrics: {reply}")))
    }

    /// Sends a signal.
    #[cfg(unix)]
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let id = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(id, signal).unwrap();
    }

    /// Sends a signal to end, and waits for the exit.
    #[cfg(unix)]
    pub fn stop(mut self) -> ExitStatus {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        await_exit(&mut self.child)
    }

    /// Sends a signal to end, waits for the exit, and returns the details.
    #[cfg(unix)]
    pub fn end_by(mut self, signal: nix::sys::signal::Signal) -> Ended {
        let began = Instant::now();
        self.signal(signal);
        let status = await_exit(&mut self.child);
        let took = began.elapsed();
        // The readers of both pipes may finish a moment after their writer has ended.
        eventually("stderr is closed", || (Arc::strong_count(&self.log) == 1).then_some(()));
        Ended { status, took, further_lines: self.further_lines.iter().collect(), log: self.log() }
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its peak resident memory in KiB (Linux).
    pub fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.ready_line, self.log().join("\n"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !thread::panicking() {
            // The pipe's reader may finish a moment after its writer has ended.
            eventually("stderr is closed", || (Arc::strong_count(&self.log) == 1).then_some(()));
            secrets::assert_untold(&self.ready_line, &self.log());
        }
    }
}

impl Watched {
    pub fn start(program: &str, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let mut child = Expected(spawn(program, &arguments, &[]));
        let log = collect(child.0.stderr.take().unwrap());
        let lines = lines(child.0.stdout.take().unwrap());
        Self { child, log, lines }
    }

    /// Its next line; `None` when it has ended.
    pub fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line within {PATIENCE:?}"),
        }
    }

    /// Its next line, if there is one already.
    pub fn try_line(&mut self) -> Option<String> {
        self.lines.try_recv().ok()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.child.end();
        if !thread::panicking() {
            secrets::assert_untold("a program that was watched", &self.log.lock().unwrap());
        }
    }
}

/// A process that should exit without a signal. It is killed if it does not.
struct Expected(Child);

impl Expected {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.end();
    }
}

fn with_port(arguments: &[&str], flags: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = arguments.iter().chain(flags).map(ToString::to_string).collect();
    if !flags.contains(&"--listen") {
        all.extend(["--listen".to_owned(), "127.0.0.1:0".to_owned()]);
    }
    all
}

fn spawn(program: &str, arguments: &[String], variables: &[(&str, &str)]) -> Child {
    let variables = [&[("RUST_LOG", "debug")], variables].concat();
    spawn_in(Path::new(env!("CARGO_TARGET_TMPDIR")), program, arguments, &variables)
}

fn spawn_in(directory: &Path, program: &str, arguments: &[String], variables: &[(&str, &str)]) -> Child {
    spawn_reading(Stdio::null(), directory, program, arguments, variables)
}

fn spawn_reading(
    stdin: Stdio,
    directory: &Path,
    program: &str,
    arguments: &[String],
    variables: &[(&str, &str)],
) -> Child {
    secrets::learn_from_settings(arguments, variables);
    // Settings in the user's environment must not reach the processes.
    let course = ["HOST", "GATE_PORT", "DIS_PORT", "USERS_PORT", "RUST_LOG"];
    let is_ours =
        |name: &str| ["PILCROW_", "GATEWAY_", "USERS_", "DISTRIBUTOR_"].iter().any(|p| name.starts_with(p));
    let settings = std::env::vars_os().map(|(name, _)| name);
    let settings =
        settings.filter(|name| name.to_str().is_some_and(|name| course.contains(&name) || is_ours(name)));
    let mut command = Command::new(program);
    settings.for_each(|name| {
        command.env_remove(name);
    });
    command
        .args(arguments)
        .envs(variables.iter().copied())
        .current_dir(directory)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} does not start: {error}"))
}

fn await_exit(child: &mut Child) -> ExitStatus {
    eventually("the process has ended", || child.try_wait().unwrap())
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (line, lines) = channel();
    thread::spawn(move || {
        BufReader::new(from).lines().map_while(Result::ok).try_for_each(|read| line.send(read))
    });
    lines
}

fn collect(from: impl Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let log = Arc::new(Mutex::new(Vec::new()));
    let collected = log.clone();
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            collected.lock().unwrap().push(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
        }
    });
    log
}
