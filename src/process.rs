//! How a process starts and stops: settings, log, ready line, signals, exit status. All binaries and services use this.
//!
//! A setting has these sources, in this order: its flag, its environment variable, the `.env` file in the working
//! directory, the course's variables (`HOST` and the port's own), its default.

use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, FromArgMatches, Parser, ValueEnum};
use crossbeam_channel::{Receiver, bounded};

use crate::address::canonical;
use crate::net::listener::{DEFAULT_MAX_CONNECTIONS, Listener};
use crate::net::secret::Secret;
use crate::node::Node;
use crate::observe::{access_log, log_writer, metrics};
use crate::packet::DEFAULT_MAX_FRAME_BYTES;
use crate::packet::frame::FrameError;
use crate::pool::no_thread;

/// The values that differ between the binaries at startup.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Its name, as in its ready line.
    pub name: &'static str,
    /// Its default port.
    pub port: u16,
    /// The course's environment variable for that port, such as `GATE_PORT`.
    pub port_variable: &'static str,
}

/// The distributor. Every other process knows its default address.
pub const DISTRIBUTOR: Identity = Identity { name: "distributor", port: 9000, port_variable: "DIS_PORT" };

/// How long a stopping process waits for the reader of its log.
const LOG_TIMEOUT: Duration = Duration::from_secs(1);

/// Settings that every process has.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    pub listen: String,

    /// How many connections to accept; the next one is rejected
    #[arg(long, env = "PILCROW_MAX_CONNECTIONS", value_name = "N", default_value_t = DEFAULT_MAX_CONNECTIONS)]
    #[arg(value_parser = at_least_one)]
    pub max_connections: usize,

    /// The longest packet to accept, in bytes
    #[arg(long, env = "PILCROW_MAX_FRAME", value_name = "BYTES", default_value_t = DEFAULT_MAX_FRAME_BYTES)]
    #[arg(value_parser = at_least_one)]
    pub max_frame: usize,

    /// How long work in progress may take after a signal to end, in seconds
    #[arg(long, env = "PILCROW_DRAIN", value_name = "SECONDS", default_value_t = 10)]
    pub drain: u64,

    /// Where to show metrics over HTTP, besides; port 0 takes a free one, which the log names
    #[arg(long, env = "PILCROW_METRICS_LISTEN", value_name = "HOST:PORT", value_parser = host_port)]
    pub metrics_listen: Option<String>,

    /// Whether each request gets a line in the log
    #[arg(long, env = "PILCROW_ACCESS_LOG", value_enum, default_value_t = Switch::On)]
    pub access_log: Switch,

    /// Whether this is a cluster with a secret.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// The one switch between development and production: whether a cluster secret is set.
///
/// It is read and checked together with the flags. The secret itself is not a flag, since every user of a machine can
/// read all command lines.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    secret: Option<Secret>,
    /// A warning about the secret file, for the log.
    warning: Option<String>,
}

#[derive(Debug, Args)]
struct SecretFile {
    /// The file with the cluster secret. The variable `PILCROW_SECRET` may contain it instead. Without a secret:
    /// development mode, on loopback addresses only
    #[arg(long, env = "PILCROW_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

/// A setting that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Switched on.
    On,
    /// Switched off.
    Off,
}

/// The setting of a process that joins distributors.
#[derive(Debug, Clone, Args)]
pub struct Join {
    /// Where the distributor listens; several, separated by commas, are all joined
    #[arg(long, env = "PILCROW_DISTRIBUTOR", value_name = "HOST:PORT", value_delimiter = ',')]
    #[arg(value_parser = host_port)]
    pub distributor: Vec<String>,

    /// The address to register instead of its own, such as that of `cargo tap`
    #[arg(long, env = "PILCROW_ADVERTISE", value_name = "HOST:PORT", value_parser = reachable_address)]
    pub advertise: Option<(String, u16)>,
}

impl Join {
    /// The registration of `node`, under the address that `--advertise` names, if any.
    #[must_use]
    pub fn advertised(&self, node: Node) -> Node {
        match &self.advertise {
            Some((host, port)) => node.advertised_at(host, *port),
            None => node,
        }
    }
}

impl Common {
    /// How long work in progress may take after a stop signal.
    #[must_use]
    pub fn drain_limit(&self) -> Duration {
        Duration::from_secs(self.drain)
    }

    /// The cluster secret, if there is one. Without it, this process is in development mode.
    #[must_use]
    pub fn secret(&self) -> Option<&Secret> {
        self.cluster.secret()
    }

    /// Whether a cluster secret is set. If so, every node must prove it, and changes need a login.
    #[must_use]
    pub fn secured(&self) -> bool {
        self.secret().is_some()
    }

    /// Binds the port that `--listen` names, or uses the socket that a service manager has passed on. Logs the mode of
    /// this process and switches the access log on or off. The error states the reason and what to do.
    pub fn bind(&self) -> Result<Listener, String> {
        let listener = match self.inherit()? {
            Some(listener) => listener,
            None => self.bind_to(&self.listen, "--listen")?,
        };
        self.cluster.log_mode();
        access_log::set(self.access_log == Switch::On);
        Ok(listener)
    }

    fn inherit(&self) -> Result<Option<Listener>, String> {
        let inherited = Listener::inherit().map_err(|error| {
            format!("cannot use the socket in LISTEN_FDS: {error}; pass on one listening TCP socket, or none")
        })?;
        let Some(listener) = inherited else { return Ok(None) };
        let address = listener.address();
        self.check_loopback(&address.to_string(), &[address])?;
        log::info!("using the listening socket that was passed on, at {address}, instead of --listen");
        Ok(Some(listener))
    }

    /// Binds the port at `address`, the value of `flag`. In development mode the address must be a loopback address.
    /// The error states the reason and what to do.
    pub fn bind_to(&self, address: &str, flag: &str) -> Result<Listener, String> {
        let refused = |error: io::Error| {
            format!("cannot listen on {address}: {error}; choose another address with {flag}")
        };
        // One lookup only: the addresses that are checked are the addresses that are bound.
        let candidates: Vec<SocketAddr> = address.to_socket_addrs().map_err(refused)?.collect();
        self.check_loopback(address, &candidates)?;
        Listener::bind(&candidates[..]).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "cannot listen on {address}: the port is in use; end the process that has it, or choose another \
                 with {flag}"
            ),
            _ => refused(error),
        })
    }

    fn check_loopback(&self, name: &str, addresses: &[SocketAddr]) -> Result<(), String> {
        if self.secured() || addresses.iter().all(|one| canonical(one.ip()).is_loopback()) {
            return Ok(());
        }
        Err(format!(
            "cannot listen on {name} in development mode, which is for loopback addresses such as 127.0.0.1 only; set \
             PILCROW_SECRET or --secret-file on every process to listen on other addresses"
        ))
    }
}

impl Cluster {
    /// The secret, if there is one.
    #[must_use]
    pub fn secret(&self) -> Option<&Secret> {
        self.secret.as_ref()
    }

    /// A cluster with this secret.
    #[must_use]
    pub fn with(secret: Secret) -> Self {
        Self { secret: Some(secret), warning: None }
    }

    /// The secret of this process, from the file that its flag names and from `PILCROW_SECRET`.
    fn of(file: Option<&Path>, variable: Option<OsString>) -> Result<Self, String> {
        let from_file = file.map(Secret::read).transpose()?;
        let from_variable = variable.map(|text| Secret::new(text.as_encoded_bytes())).transpose();
        let from_variable = from_variable.map_err(|why| format!("PILCROW_SECRET {why}"))?;
        if from_file.is_some() && from_variable.is_some() && from_file != from_variable {
            return Err(
                "PILCROW_SECRET and the secret file have different secrets; set one of them".to_owned()
            );
        }
        let secret = from_file.or(from_variable);
        Ok(Self { secret, warning: file.and_then(permission_warning) })
    }

    fn log_mode(&self) {
        if let Some(warning) = &self.warning {
            log::warn!("{warning}");
        }
        if self.secret.is_some() {
            log::info!("secured: every node has to prove the cluster secret");
        } else {
            log::info!("development mode (no PILCROW_SECRET): loopback addresses only, no logins needed");
        }
    }
}

#[cfg(unix)]
fn permission_warning(file: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(file).ok()?.permissions().mode() & 0o777;
    (mode & 0o006 != 0).then(|| {
        let file = file.display();
        format!("every user of this machine has access to the secret file {file} (mode {mode:o}); chmod 600 {file}")
    })
}

#[cfg(not(unix))]
fn permission_warning(_file: &Path) -> Option<String> {
    None
}

/// The flag names a file. The value is the secret in that file.
impl Args for Cluster {
    fn augment_args(command: Command) -> Command {
        SecretFile::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        SecretFile::augment_args_for_update(command)
    }
}

impl FromArgMatches for Cluster {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let SecretFile { secret_file } = SecretFile::from_arg_matches(matches)?;
        Self::of(secret_file.as_deref(), env::var_os("PILCROW_SECRET"))
            .map_err(|sentence| clap::Error::raw(ErrorKind::ValueValidation, sentence))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Checks only the form of an address. The host is looked up later, since its address may change.
pub fn host_port(text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err("must be HOST:PORT, such as 127.0.0.1:9000".to_owned()),
    }
}

/// Parses an address that other nodes connect to. No node can connect to port 0.
fn reachable_address(text: &str) -> Result<(String, u16), String> {
    let text = host_port(text)?;
    match text.rsplit_once(':').map(|(host, port)| (host.trim_matches(['[', ']']), port.parse())) {
        Some((host, Ok(port))) if port != 0 => Ok((host.to_owned(), port)),
        _ => Err("must have a port from 1 to 65535, where other nodes can connect".to_owned()),
    }
}

/// Parses a limit. A limit of 0 would reject everything.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "must be an integer from 1 up".to_owned())
}

/// Reads the settings, starts the log and runs `serve`. An error becomes one sentence on stderr. The exit status is
/// then 1, or 2 for a bad setting.
pub fn run<A: Parser>(identity: Identity, serve: impl FnOnce(A) -> Result<(), String>) -> ExitCode {
    if let Err(sentence) = read_env_file() {
        return fail(identity, &sentence, 2);
    }
    let arguments = match parse::<A>(identity) {
        Ok(arguments) => arguments,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // A closed stdout must not cause a failure.
            let _ = write!(io::stdout(), "{error}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let text = error.to_string();
            let what: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
            let what = what.join(" ");
            let what = what.trim_start_matches("error: ");
            return fail(identity, &format!("{what}; see {} --help", identity.name), 2);
        }
    };
    if let Err(error) = start_log() {
        return fail(identity, &no_thread(error), 1);
    }
    metrics::introduce(identity.name);
    metrics::WIRE.show_reasons(&FrameError::REASONS);
    let served = serve(arguments);
    log_writer::flush(LOG_TIMEOUT);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => fail(identity, &sentence, 1),
    }
}

fn fail(identity: Identity, sentence: &str, status: u8) -> ExitCode {
    eprintln!("{}: {sentence}", identity.name);
    ExitCode::from(status)
}

fn read_env_file() -> Result<(), String> {
    match dotenvy::from_path(".env") {
        Ok(()) => Ok(()),
        Err(dotenvy::Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(dotenvy::Error::LineParse(part, _)) => Err(format!(
            "the file .env in this directory is malformed{}: each line must be NAME=value, and a value \
             with spaces needs quotes",
            line_of(&part)
        )),
        Err(error) => Err(format!("the file .env in this directory cannot be read: {error}")),
    }
}

/// The number of the bad line in the file. Its text is not shown, since it may contain the secret.
fn line_of(part: &str) -> String {
    let part = part.lines().map(str::trim).find(|line| !line.is_empty());
    let text = std::fs::read_to_string(".env").unwrap_or_default();
    let at = part.and_then(|part| text.lines().position(|line| line.contains(part)));
    at.map_or_else(String::new, |at| format!(", line {}", at + 1))
}

/// Parses the flags of `A`. Some defaults depend on the process and on the variables of the course.
fn parse<A: Parser>(identity: Identity) -> Result<A, clap::Error> {
    let mut command = A::command().name(identity.name).mut_arg("listen", |argument| {
        let variable = format!("{}_LISTEN", identity.name.to_uppercase());
        argument.required(false).env(variable).default_value(course_address(identity))
    });
    if command.get_arguments().any(|argument| argument.get_id() == "distributor") {
        command = command.mut_arg("distributor", |argument| {
            argument.required(false).default_value(course_address(DISTRIBUTOR))
        });
    }
    let matches = command.try_get_matches()?;
    A::from_arg_matches(&matches)
}

/// The address from `HOST` and the port variable of the course. The default is loopback and the usual port.
fn course_address(identity: Identity) -> String {
    let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let host = set("HOST").unwrap_or_else(|| "127.0.0.1".to_owned());
    match set(identity.port_variable) {
        Some(port) => format!("{host}:{port}"),
        None => format!("{host}:{}", identity.port),
    }
}

/// Writes the log to stderr, one line per event: time, level, text. `RUST_LOG` sets the level.
fn start_log() -> io::Result<()> {
    log_writer::start()?;
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"));
    if io::stderr().is_terminal() && ["NO_COLOR", "RUST_LOG_STYLE"].iter().all(|name| env::var(name).is_err())
    {
        builder.write_style(env_logger::WriteStyle::Always);
    }
    builder
        .target(env_logger::Target::Pipe(Box::new(log_writer::Lines)))
        .format(|line, record| {
            let level = record.level();
            let style = line.default_level_style(level);
            let text = on_one_line(record.args().to_string());
            writeln!(line, "{} {style}{level:5}{style:#} {text}", line.timestamp_millis())
        })
        .init();
    Ok(())
}

/// Escapes control characters. So text from a peer cannot forge a log line or steer a terminal.
#[must_use]
pub fn on_one_line(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

/// Prints the ready line on stdout. Programs wait for it.
pub fn ready(name: &str, address: SocketAddr) {
    let mut out = io::stdout().lock();
    // A closed stdout must not stop the service.
    let _ = writeln!(out, "{name} listening on {address}").and_then(|()| out.flush());
}

/// A channel that receives a message when the process receives a stop signal (`SIGINT`, `SIGTERM`, Ctrl-C).
///
/// # Errors
/// A sentence, if the operating system refuses.
pub fn stop_signal() -> Result<Receiver<()>, String> {
    let (asked, stop) = bounded(1);
    let handler = move || {
        // Further signals have no effect.
        let _ = asked.try_send(());
    };
    ctrlc::set_handler(handler).map_err(|error| format!("cannot wait for signals: {error}"))?;
    Ok(stop)
}

/// A random id for the registration of this run of the process.
///
/// # Errors
/// A sentence, if the operating system has no randomness.
pub fn new_id() -> Result<String, String> {
    Ok(format!("{:016x}", getrandom::u64().map_err(|error| format!("no randomness: {error}"))?))
}
