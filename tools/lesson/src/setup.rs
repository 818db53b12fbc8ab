//! What one check starts: the program of the learner, and the real processes beside it. All end with the check.

use std::cell::RefCell;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::check::{Failure, Verdict};
use crate::connection::Connection;
use crate::language::{Text, Words, text};
use crate::process::{MAX_OUTPUT, Process, State};
use crate::program::Program;
use crate::real;
use crate::transcript::Transcript;

/// How long a program may take until it accepts connections.
const START_TIME: Duration = Duration::from_secs(10);
/// How long a program that has closed a connection may take to crash.
const CRASH_TIME: Duration = Duration::from_secs(1);
/// The ports of the processes are these, up from the first.
const FIRST_PORT: u16 = 12_000;
const PORTS: u32 = 20_000;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The surroundings of one check.
pub struct Setup<'a> {
    pub program: &'a Program,
    pub transcript: Transcript,
    /// A program of the learner that prints more is ended.
    pub max_output: usize,
    /// The programs of the learner, for the report.
    programs: RefCell<Vec<Rc<Process>>>,
    /// A directory for databases, which is removed in the end.
    folder: PathBuf,
}

/// A running process with a port.
pub struct Running<'a> {
    setup: &'a Setup<'a>,
    name: Text,
    pub address: SocketAddr,
    command: Vec<String>,
    is_learners: bool,
    process: Rc<Process>,
}

impl<'a> Setup<'a> {
    pub fn new(program: &'a Program) -> Result<Self, Text> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = root_folder().join(number.to_string());
        fs::create_dir_all(&folder).map_err(|error| {
            let folder = folder.display();
            text!("cannot create {folder}: {error}", "{folder} 폴더를 만들 수 없습니다: {error}")
        })?;
        Ok(Self {
            program,
            transcript: Transcript::default(),
            max_output: MAX_OUTPUT,
            programs: RefCell::default(),
            folder,
        })
    }

    /// Starts the program of the learner. Nobody listens where it looks for a distributor.
    pub fn start(&self) -> Result<Running<'_>, Failure> {
        self.start_beside(free_address())
    }

    /// Starts the program of the learner, whose second argument is the address of its neighbour.
    pub fn start_beside(&self, neighbour: SocketAddr) -> Result<Running<'_>, Failure> {
        self.start_program(self.program, neighbour)
    }

    /// Starts any program of the learner.
    pub fn start_program(&self, program: &Program, neighbour: SocketAddr) -> Result<Running<'_>, Failure> {
        let address = free_address();
        let database = self.file("learner.db");
        let arguments = program.arguments(address, neighbour, &database);
        let name = text!("your program", "작성한 프로그램");
        self.run(name, address, arguments, true)
    }

    /// Starts one of the real programs.
    pub fn start_real(&self, name: &'static str, flags: &[&str]) -> Result<Running<'_>, Failure> {
        let address = free_address();
        let mut command = vec![real::path(name).display().to_string()];
        command.extend(["--listen".to_owned(), address.to_string()]);
        command.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self.run(Text::same(name), address, command, false)
    }

    pub fn distributor(&self) -> Result<Running<'_>, Failure> {
        self.start_real("distributor", &[])
    }

    pub fn gateway(&self, distributor: SocketAddr) -> Result<Running<'_>, Failure> {
        self.start_real("gateway", &["--distributor", &distributor.to_string()])
    }

    pub fn users(&self, distributor: SocketAddr) -> Result<Running<'_>, Failure> {
        let database = self.file("users.db").display().to_string();
        self.start_real("users", &["--distributor", &distributor.to_string(), "--database", &database])
    }

    /// Waits a moment for the end of the program, since its last lines say why.
    pub fn await_crash(&self) {
        let deadline = Instant::now() + CRASH_TIME;
        let is_running = || self.programs.borrow().iter().all(|process| process.is_running());
        while is_running() && Instant::now() < deadline {
            thread::sleep(LOOK_EVERY);
        }
    }

    /// The states of all programs of the learner.
    pub fn states(&self) -> Vec<State> {
        self.programs.borrow().iter().map(|process| process.state()).collect()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn run(
        &self,
        name: Text,
        address: SocketAddr,
        command: Vec<String>,
        is_learners: bool,
    ) -> Result<Running<'_>, Failure> {
        let process = Rc::new(self.launch(&command, is_learners)?);
        let running = Running { setup: self, name, address, command, is_learners, process };
        running.await_port()?;
        Ok(running)
    }
}

impl Setup<'_> {
    fn launch(&self, command: &[String], is_learners: bool) -> Result<Process, Failure> {
        let mut starting = Command::new(&command[0]);
        starting.args(&command[1..]).env("PYTHONUNBUFFERED", "1");
        if !is_learners {
            starting.current_dir(&self.folder);
            real::clear_settings(&mut starting);
        }
        // The real processes log every request.
        let max_output = if is_learners { self.max_output } else { usize::MAX };
        Process::start(&mut starting, max_output).map_err(|error| {
            let line = command.join(" ");
            Failure::new(text!("{line} starts", "{line} 실행"), Text::same(error.to_string()))
        })
    }
}

impl Drop for Setup<'_> {
    fn drop(&mut self) {
        // The databases must not be in use.
        self.programs.borrow().iter().for_each(|process| process.kill());
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Running<'_> {
    pub fn connect(&self, who: Words) -> Result<Connection, Failure> {
        self.connect_as(who.into())
    }

    pub fn connect_as(&self, who: Text) -> Result<Connection, Failure> {
        Connection::open(self.address, who, &self.setup.transcript)
    }

    pub fn transcript(&self) -> Transcript {
        self.setup.transcript.clone()
    }

    /// Kills it without a goodbye.
    pub fn kill(&self) {
        let (en, ko) = (&self.name.en, &self.name.ko);
        self.setup.transcript.happened(&text!("kill -9 of {en}", "{ko} kill -9"));
        self.process.kill();
    }

    /// Starts it again with the same arguments.
    pub fn restart(&mut self) -> Verdict {
        let (en, ko) = (&self.name.en, &self.name.ko);
        self.setup.transcript.happened(&text!("{en} starts again", "{ko} 다시 시작"));
        self.process = Rc::new(self.setup.launch(&self.command, self.is_learners)?);
        self.await_port()
    }

    /// Waits until it accepts connections.
    fn await_port(&self) -> Verdict {
        if self.is_learners {
            self.setup.programs.borrow_mut().push(self.process.clone());
        }
        let deadline = Instant::now() + START_TIME;
        while TcpStream::connect_timeout(&self.address, LOOK_EVERY * 10).is_err() {
            let is_running = self.process.is_running();
            if is_running && Instant::now() < deadline {
                thread::sleep(LOOK_EVERY);
                continue;
            }
            let (address, en, ko) = (self.address, &self.name.en, &self.name.ko);
            let expected = text!(
                "{en} accepts connections at {address} within 10 s",
                "{ko}: 10초 안에 {address}에서 연결을 받아야 합니다"
            );
            let got = if is_running {
                text!("it runs, but nobody listens there", "실행 중이지만 그 포트를 열지 않았습니다")
            } else {
                text!("it has ended", "종료되었습니다")
            };
            return Err(Failure::new(expected, got));
        }
        Ok(())
    }
}

/// The directory of this run of the tool.
fn root_folder() -> PathBuf {
    std::env::temp_dir().join(format!("cargo-lesson-{}", std::process::id()))
}

/// Removes what the checks have left on the disk.
pub fn remove_folders() {
    let _ = fs::remove_dir_all(root_folder());
}

/// A port that nobody uses now. It is below those that the system gives to clients: while a process restarts, a client
/// could get its port.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..PORTS {
        let number = std::process::id().wrapping_mul(61).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(number % PORTS).unwrap_or_default() + FIRST_PORT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    // The program cannot listen there either, and the check says so.
    SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST_PORT))
}
