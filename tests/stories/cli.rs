//! Start, configuration and shutdown of the three binaries.

use std::net::TcpListener;
use std::path::Path;
use std::thread;

use serde_json::json;

use crate::harness::{Output, Process, Program, Scratch, await_instances, eventually, free_port};

const DISTRIBUTOR: Binary = Binary { name: "distributor", program: env!("CARGO_BIN_EXE_distributor") };
const USERS: Binary = Binary { name: "users", program: env!("CARGO_BIN_EXE_users") };
const GATEWAY: Binary = Binary { name: "gateway", program: env!("CARGO_BIN_EXE_gateway") };
const ALL: [Binary; 3] = [DISTRIBUTOR, USERS, GATEWAY];

#[derive(Clone, Copy)]
struct Binary {
    name: &'static str,
    program: &'static str,
}

impl Binary {
    /// Starts it in a directory, with only these variables.
    fn start(self, directory: &Path, flags: &[&str], variables: &[(&str, &str)]) -> Process {
        let database: &[&str] = if self.name == "users" { &["--database", "users.db"] } else { &[] };
        let program = Program::at(self.program).directory(directory).flags(flags).flags(database);
        program.only_variables(variables).start()
    }

    /// Runs it in an empty directory until it exits without a signal.
    fn run(self, flags: &[&str], variables: &[(&str, &str)]) -> Output {
        let scratch = Scratch::new();
        let program = Program::at(self.program).directory(scratch.path()).flags(flags);
        program.only_variables(variables).run()
    }

    /// Runs it with arguments that it should reject. Returns the one line that it prints.
    fn refused(self, status: i32, flags: &[&str], variables: &[(&str, &str)]) -> String {
        let quiet = [variables, &[("RUST_LOG", "off"), ("USERS_DATABASE", "users.db")]].concat();
        let output = self.run(flags, &quiet);
        let Output { stdout, stderr, .. } = output;
        assert_eq!((output.status, stdout.as_str()), (Some(status), ""), "{} {flags:?}: {stderr}", self.name);
        assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
        assert!(stderr.starts_with(&format!("{}: ", self.name)), "{stderr}");
        stderr
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    for binary in ALL {
        for flag in ["--version", "-V"] {
            let Output { status, stdout, stderr } = binary.run(&[flag], &[]);
            let version = format!("{} {}", binary.name, env!("CARGO_PKG_VERSION"));
            assert_eq!((status, stdout, stderr.as_str()), (Some(0), version, ""));
        }
        for flag in ["--help", "-h"] {
            let Output { status, stdout, stderr } = binary.run(&[flag], &[]);
            assert_eq!((status, stderr.as_str()), (Some(0), ""));
            let listen = format!("{}_LISTEN", binary.name.to_uppercase());
            for word in ["--listen", &listen, "--max-connections", "--max-frame", "--drain", "--help"] {
                assert!(stdout.contains(word), "{} {flag} does not mention {word}: {stdout}", binary.name);
            }
        }
    }
    let help = USERS.run(&["--help"], &[]).stdout;
    for default in ["127.0.0.1:9020", "127.0.0.1:9000", "data/users.db", "PILCROW_DISTRIBUTOR"] {
        assert!(help.contains(default), "{help}");
    }
    assert!(GATEWAY.run(&["--help"], &[]).stdout.contains("127.0.0.1:8000"));
    assert!(DISTRIBUTOR.run(&["--help"], &[]).stdout.contains("127.0.0.1:9000"));
}

#[test]
fn a_bad_flag_is_one_line_that_names_it_and_exit_status_2() {
    for binary in ALL {
        let bad: [(&[&str], &str); 12] = [
            (&["--wat"], "--wat"),
            (&["somewhere"], "somewhere"),
            (&["--listen"], "--listen"),
            (&["--listen", "nonsense"], "nonsense"),
            (&["--listen", "127.0.0.1"], "--listen"),
            (&["--listen", "127.0.0.1:99999"], "99999"),
            (&["--listen", ":8000"], ":8000"),
            (&["--listen", ""], "--listen"),
            (&["--listen", "127.0.0.1:1", "--listen", "127.0.0.1:2"], "--listen"),
            (&["--max-connections", "0"], "--max-connections"),
            (&["--max-frame", "1e6"], "--max-frame"),
            (&["--drain", "soon"], "--drain"),
        ];
        for (flags, word) in bad {
            let message = binary.refused(2, flags, &[]);
            assert!(message.contains(word) && message.contains("--help"), "{message}");
        }
    }
    for binary in [USERS, GATEWAY] {
        for nowhere in ["nonsense", "", "127.0.0.1:9000,", "127.0.0.1:9000,nonsense"] {
            assert!(binary.refused(2, &["--distributor", nowhere], &[]).contains("--distributor"));
        }
    }
    for flags in [["--timeout", "0"], ["--timeout", "x"], ["--front", "x"], ["--max-in-flight", "0"]] {
        assert!(GATEWAY.refused(2, &flags, &[]).contains(flags[0]));
    }
}

#[test]
fn a_bad_environment_variable_is_one_line_too() {
    assert!(GATEWAY.refused(2, &[], &[("GATE_PORT", "eighty")]).contains("eighty"));
    assert!(USERS.refused(2, &[], &[("USERS_LISTEN", "nonsense")]).contains("nonsense"));
    assert!(DISTRIBUTOR.refused(2, &[], &[("PILCROW_MAX_FRAME", "much")]).contains("much"));
    let scratch = Scratch::new();
    std::fs::write(scratch.file(".env"), "HOST=127.0.0.1\nthis is no setting\n").unwrap();
    let gateway = Program::at(GATEWAY.program).directory(scratch.path()).only_variables(&[]);
    let Output { status, stdout, stderr } = gateway.run();
    assert_eq!((status, stdout.as_str(), stderr.lines().count()), (Some(2), "", 1), "{stderr}");
    assert!(stderr.contains(".env") && stderr.contains("line 2"), "{stderr}");
}

#[test]
fn a_port_in_use_is_one_sentence_that_says_what_to_do_and_exit_status_1() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    for binary in ALL {
        let message = binary.refused(1, &["--listen", &address], &[]);
        for word in [&*address, "in use", "--listen"] {
            assert!(message.contains(word), "{message}");
        }
    }
}

#[test]
fn an_address_that_is_not_this_machines_is_one_sentence_and_exit_status_1() {
    // These addresses are from the block reserved for documentation, so no machine has them.
    for binary in ALL {
        let secret = [("PILCROW_SECRET", "a secret, or it would not even be tried")];
        let message = binary.refused(1, &["--listen", "192.0.2.1:8000"], &secret);
        assert!(message.contains("192.0.2.1:8000"), "{message}");
    }
}

/// The three binaries with default settings but on free ports, once they are connected.
fn start_three(scratch: &Scratch) -> (Process, Process, Process) {
    let any = ["--listen", "127.0.0.1:0"];
    let distributor = DISTRIBUTOR.start(scratch.path(), &any, &[]);
    let joined = distributor.address().to_string();
    let join = [&any[..], &["--distributor", &joined]].concat();
    let users = USERS.start(scratch.path(), &join, &[]);
    let gateway = GATEWAY.start(scratch.path(), &join, &[]);
    await_instances(&gateway, "GET", "/users", 1);
    (distributor, users, gateway)
}

#[cfg(unix)]
#[test]
fn each_binary_prints_one_line_and_ends_with_status_0_soon_after_a_signal() {
    use nix::sys::signal::Signal::{SIGINT, SIGTERM};
    for signal in [SIGTERM, SIGINT] {
        let scratch = Scratch::new();
        let (distributor, users, gateway) = start_three(&scratch);
        // Idle connections must not delay a shutdown.
        let mut browser = gateway.http().connect();
        browser.send_request("GET", "/users", &[], b"");
        assert_eq!(browser.receive().unwrap().status, 200);
        let mut packets = users.packets();
        assert_eq!(packets.call("GET", "/users", &json!({}), 1)["errorcode"], 0);
        let _silent = [gateway.http().connect(), users.http().connect(), distributor.http().connect()];

        let mut all = vec![(GATEWAY, gateway), (USERS, users), (DISTRIBUTOR, distributor)];
        if signal == SIGINT {
            all.reverse(); // in either order: nobody waits for those who are still linked to it
        }
        for (binary, process) in all {
            let address = process.address();
            assert_eq!(process.ready_line(), format!("{} listening on {address}", binary.name));
            assert!(address.port() != 0 && address.ip().is_loopback());
            let ended = process.end_by(signal);
            println!("{} ended {:?} after {signal}", binary.name, ended.took);
            assert_eq!(ended.status.code(), Some(0), "{:#?}", ended.log);
            assert_eq!(ended.further_lines, [""; 0], "exactly one line on stdout");
            // The promise is one second. The machine that runs the stories may be busy.
            assert!(ended.took.as_secs() < 3, "{} took {:?}", binary.name, ended.took);
        }
    }
}

#[test]
fn the_variables_of_the_course_set_the_addresses() {
    let (scratch, ports) = (Scratch::new(), Ports::free());
    serves_on(&scratch, &ports, "127.0.0.1", &ports.variables("127.0.0.1"));
}

#[test]
fn the_variables_of_the_course_are_read_from_the_file_env() {
    let (scratch, ports) = (Scratch::new(), Ports::free());
    let lines = ports.variables("127.0.0.1").map(|(name, value)| format!("{name}={value}\n"));
    std::fs::write(scratch.file(".env"), format!("# where everything is\n{}", lines.concat())).unwrap();
    serves_on(&scratch, &ports, "127.0.0.1", &[]);
}

#[test]
fn everything_may_run_on_ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        crate::harness::skip("IPv6", "this machine has no IPv6");
        return;
    }
    let (scratch, ports) = (Scratch::new(), Ports::free());
    serves_on(&scratch, &ports, "[::1]", &ports.variables("::1"));
}

/// A port for each of the three.
struct Ports {
    gateway: u16,
    distributor: u16,
    users: u16,
}

impl Ports {
    fn free() -> Self {
        Self { gateway: free_port(), distributor: free_port(), users: free_port() }
    }

    /// The course's variables for these settings.
    fn variables(&self, host: &str) -> [(&'static str, String); 4] {
        [
            ("HOST", host.to_owned()),
            ("GATE_PORT", self.gateway.to_string()),
            ("DIS_PORT", self.distributor.to_string()),
            ("USERS_PORT", self.users.to_string()),
        ]
    }
}

/// Starts the three without flags, in this directory and with these variables. They listen on their ports and connect
/// to each other.
fn serves_on(directory: &Scratch, ports: &Ports, host: &str, variables: &[(&str, String)]) {
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let start = |binary: Binary| binary.start(directory.path(), &[], &variables);
    let (distributor, users, gateway) = (start(DISTRIBUTOR), start(USERS), start(GATEWAY));
    assert_eq!(distributor.ready_line(), format!("distributor listening on {host}:{}", ports.distributor));
    assert_eq!(users.ready_line(), format!("users listening on {host}:{}", ports.users));
    assert_eq!(gateway.ready_line(), format!("gateway listening on {host}:{}", ports.gateway));
    await_instances(&gateway, "GET", "/users", 1);
    assert_eq!(gateway.http().get("/users").results(), json!([]));
}

#[test]
fn a_flag_wins_over_its_variable_that_over_the_env_file_and_that_over_the_courses_names() {
    let scratch = Scratch::new();
    let [course, file, variable, flag] = [(); 4].map(|()| free_port());
    for (binary, course_name) in [(DISTRIBUTOR, "DIS_PORT"), (USERS, "USERS_PORT"), (GATEWAY, "GATE_PORT")] {
        let listens = |flags: &[&str], variables: &[(&str, &str)]| {
            binary.start(scratch.path(), flags, variables).port()
        };
        let name = format!("{}_LISTEN", binary.name.to_uppercase());
        let (course_port, variable_place) = (course.to_string(), format!("127.0.0.1:{variable}"));
        let courses = (course_name, course_port.as_str());
        let own = (name.as_str(), variable_place.as_str());
        assert_eq!(listens(&[], &[courses]), course);
        std::fs::write(scratch.file(".env"), format!("{name}=127.0.0.1:{file}\n{course_name}=1\n")).unwrap();
        assert_eq!(listens(&[], &[courses]), file);
        assert_eq!(listens(&[], &[courses, own]), variable);
        assert_eq!(listens(&["--listen", &format!("127.0.0.1:{flag}")], &[courses, own]), flag);
        std::fs::remove_file(scratch.file(".env")).unwrap();
    }
}

#[test]
fn pilcrow_distributor_names_one_distributor_or_several() {
    let scratch = Scratch::new();
    let any = ["--listen", "127.0.0.1:0"];
    let distributors = [(); 2].map(|()| DISTRIBUTOR.start(scratch.path(), &any, &[]));
    let [first, second] = distributors.each_ref().map(|one| one.address().to_string());
    let users = USERS.start(scratch.path(), &any, &[("PILCROW_DISTRIBUTOR", &second)]);
    let both = format!("{first},{second}");
    let gateway = GATEWAY.start(scratch.path(), &any, &[("PILCROW_DISTRIBUTOR", &both)]);
    await_instances(&gateway, "GET", "/users", 1);
    for distributor in &distributors {
        distributor.await_log(&["registered: gate at", &gateway.address().to_string()]);
    }
    let address = users.address().to_string();
    distributors[1].await_log(&["registered: users at", &address]);
    assert!(!distributors[0].log().iter().any(|line| line.contains(&address)));
}

#[test]
fn the_three_processes_find_each_other_in_any_order() {
    let orders = [
        [GATEWAY, USERS, DISTRIBUTOR],
        [USERS, GATEWAY, DISTRIBUTOR],
        [GATEWAY, DISTRIBUTOR, USERS],
        [USERS, DISTRIBUTOR, GATEWAY],
        [DISTRIBUTOR, GATEWAY, USERS],
    ];
    // A process that waits for the distributor retries every 3 s, so all orders wait in parallel.
    let stories = orders.map(|order| {
        thread::spawn(move || {
            let scratch = Scratch::new();
            let distributor = format!("127.0.0.1:{}", free_port());
            let started = order.map(|binary| {
                let joining = ["--listen", "127.0.0.1:0", "--distributor", &distributor];
                let joined = ["--listen", &*distributor];
                let flags: &[&str] = if binary.name == "distributor" { &joined } else { &joining };
                (binary.name, binary.start(scratch.path(), flags, &[]))
            });
            let gateway = &started.iter().find(|(name, _)| *name == "gateway").unwrap().1;
            await_instances(gateway, "GET", "/users", 1);
            let created =
                gateway.http().post("/users", &json!({ "email": "kim@example.com", "name": "Kim" }));
            assert_eq!(created.status, 201, "{}", created.text());
        })
    });
    for story in stories {
        story.join().unwrap();
    }
}

#[test]
fn by_default_the_log_shows_connections_registrations_and_route_changes() {
    let scratch = Scratch::new();
    let (distributor, users, gateway) = start_three(&scratch);
    let joined = distributor.address().to_string();
    assert_eq!(gateway.http().get("/users").status, 200);
    let address = users.address().to_string();

    distributor.await_log(&["INFO", " connected"]);
    distributor.await_log(&["INFO", "registered: users at", &address, "GET/users"]);
    distributor.await_log(&["INFO", "registered: gate at", &gateway.address().to_string()]);
    users.await_log(&["INFO", "registered as users with distributor", &joined]);
    users.await_log(&["INFO", "127.0.0.1:", " connected"]);
    gateway.await_log(&["INFO", "registered as gate with distributor", &joined]);
    gateway.await_log(&["INFO", "users at", &address, "+ GET /users", "+ POST /users/login"]);
    gateway.await_log(&["INFO", &address, "up"]);
    users.kill();
    distributor.await_log(&["INFO", "gone: users at", &address]);
    gateway.await_log(&["INFO", &address, "- GET /users", "- POST /users/login"]);
    for process in [&distributor, &gateway] {
        let of_packets =
            |line: &&String| line.contains("DEBUG") || line.contains(" bytes,") || line.ends_with(" bytes");
        assert_eq!(process.log().iter().find(of_packets), None);
    }
}

#[test]
fn at_debug_the_log_shows_every_packet() {
    let scratch = Scratch::new();
    let (any, debug) = (["--listen", "127.0.0.1:0"], [("RUST_LOG", "debug")]);
    let distributor = DISTRIBUTOR.start(scratch.path(), &any, &debug);
    let joined = distributor.address().to_string();
    let join = [&any[..], &["--distributor", &joined]].concat();
    let users = USERS.start(scratch.path(), &join, &debug);
    let gateway = GATEWAY.start(scratch.path(), &join, &debug);
    await_instances(&gateway, "GET", "/users", 1);
    assert_eq!(gateway.http().get("/users/1").status, 404);
    let mut packets = users.packets();
    let me = packets.stream().local_addr().unwrap().to_string();
    assert_eq!(packets.call("GET", "/users", &json!({}), 4711)["errorcode"], 0);

    let address = users.address().to_string();
    let lines: [(&Process, &[&str]); 8] = [
        (&users, &[&me, "→ request GET /users", "key 4711", "bytes"]),
        (&users, &[&me, "← reply success", "key 4711", "bytes"]),
        (&gateway, &[&address, "← request GET /users", "key 1,", "bytes"]),
        (&gateway, &[&address, "→ reply 404", "key 1,", "bytes"]),
        (&gateway, &[&joined, "← request POST /distributes", "key 0", "bytes"]),
        (&gateway, &[&joined, "→ list of 2 nodes", "bytes"]),
        (&distributor, &["→ request POST /distributes", "key 0", "bytes"]),
        (&distributor, &["← list", "key 0", "bytes"]),
    ];
    for (process, words) in lines {
        process.await_log(&[&["DEBUG"], words].concat());
    }
    // The log shows request and reply in the order in which they crossed the wire.
    let log = eventually("the log has both packets", || {
        let lines: Vec<String> = gateway.log().into_iter().filter(|line| line.contains("key 1,")).collect();
        (lines.len() == 2).then_some(lines)
    });
    assert!(log[0].contains('←') && log[1].contains('→'), "{log:?}");
}
