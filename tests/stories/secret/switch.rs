//! The setting: its sources, the rejected values, and its effect.

use std::fs;
use std::net::ToSocketAddrs;

use crate::harness::{Output, Process, Program, SECRET, Scratch};

const ALL: [&str; 3] =
    [env!("CARGO_BIN_EXE_distributor"), env!("CARGO_BIN_EXE_users"), env!("CARGO_BIN_EXE_gateway")];

/// The advice to set a secret that appears whenever it is missing.
const WHAT_TO_SET: &str = "set PILCROW_SECRET or --secret-file on every process to listen on other addresses";

/// Runs a program that should refuse to start. Returns the one sentence that it prints.
fn refused(program: &str, status: i32, flags: &[&str], variables: &[(&str, &str)]) -> String {
    let scratch = Scratch::new();
    let quiet = [variables, &[("RUST_LOG", "off"), ("USERS_DATABASE", "users.db")]].concat();
    let program = Program::at(program).directory(scratch.path()).flags(flags);
    let output = program.only_variables(&quiet).run();
    let Output { stdout, stderr, .. } = output;
    assert_eq!((output.status, stdout.as_str()), (Some(status), ""), "{flags:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
    stderr
}

/// Starts a program on this address in a separate directory.
fn start(scratch: &Scratch, program: &str, flags: &[&str], variables: &[(&str, &str)]) -> Process {
    let variables = [variables, &[("USERS_DATABASE", "users.db")]].concat();
    Program::at(program).directory(scratch.path()).flags(flags).only_variables(&variables).start()
}

/// A file with this content that only its owner may read.
fn secret_file(scratch: &Scratch, content: &[u8]) -> String {
    let file = scratch.file("secret");
    fs::write(&file, content).unwrap();
    set_mode(&file, 0o600);
    file.to_str().unwrap().to_owned()
}

#[cfg(unix)]
fn set_mode(file: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
}

#[cfg(not(unix))]
fn set_mode(_file: &std::path::Path, _mode: u32) {}

#[test]
fn without_a_secret_a_process_listens_on_loopback_only_and_says_what_to_set() {
    for program in ALL {
        for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[::ffff:0.0.0.0]:0"] {
            let message = refused(program, 1, &["--listen", listen], &[]);
            assert!(message.contains(listen) && message.contains(WHAT_TO_SET), "{message}");
        }
        for (host, port) in [("0.0.0.0", "GATE_PORT"), ("::", "DIS_PORT")] {
            let message = refused(program, 1, &[], &[("HOST", host), (port, "1")]);
            assert!(message.contains(WHAT_TO_SET), "{message}");
        }
    }
    let message = refused(ALL[2], 1, &["--front", "tiny-http", "--listen", "0.0.0.0:0"], &[]);
    assert!(message.contains(WHAT_TO_SET), "{message}");
}

#[test]
fn without_a_secret_a_process_can_listen_on_every_loopback_address() {
    let scratch = Scratch::new();
    for listen in ["127.0.0.1:0", "127.1.2.3:0", "localhost:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
        let able = listen
            .to_socket_addrs()
            .is_ok_and(|all| all.into_iter().all(|one| std::net::TcpListener::bind(one).is_ok()));
        if !able {
            crate::harness::skip(listen, "this machine does not have this address");
            continue;
        }
        let process = start(&scratch, ALL[0], &["--listen", listen], &[]);
        assert!(process.address().ip().to_canonical().is_loopback(), "{}", process.ready_line());
        process.await_log(&["development mode", "loopback addresses only, no logins needed"]);
    }
}

#[test]
fn with_a_secret_a_process_can_listen_on_every_address() {
    for program in ALL {
        let scratch = Scratch::new();
        let variables = [("PILCROW_SECRET", SECRET)];
        let process = start(&scratch, program, &["--listen", "0.0.0.0:0"], &variables);
        assert!(process.address().ip().is_unspecified());
        process.await_log(&["secured: every node has to prove the cluster secret"]);
    }
}

#[test]
fn the_secret_is_read_from_a_file_or_the_env_file() {
    let scratch = Scratch::new();
    let any = ["--listen", "0.0.0.0:0"];
    let file = secret_file(&scratch, format!("  {SECRET}\r\n").as_bytes());
    let from_file = start(&scratch, ALL[0], &[&any[..], &["--secret-file", &file]].concat(), &[]);
    from_file.await_log(&["secured"]);
    start(&scratch, ALL[0], &any, &[("PILCROW_SECRET_FILE", &file)]).await_log(&["secured"]);
    // The same secret from both settings is not a conflict.
    let both = [("PILCROW_SECRET", SECRET), ("PILCROW_SECRET_FILE", file.as_str())];
    start(&scratch, ALL[0], &any, &both).await_log(&["secured"]);
    fs::write(scratch.file(".env"), format!("PILCROW_SECRET=\"{SECRET}\"\n")).unwrap();
    start(&scratch, ALL[0], &any, &[]).await_log(&["secured"]);
}

#[test]
fn an_invalid_secret_is_rejected_with_one_sentence() {
    let scratch = Scratch::new();
    let file = |content: &[u8]| secret_file(&scratch, content);
    for program in ALL {
        let variable = |text: &str| refused(program, 2, &[], &[("PILCROW_SECRET", text)]);
        assert!(variable("").contains("PILCROW_SECRET is empty"));
        assert!(variable(" fifteen bytes.. ").contains("PILCROW_SECRET is shorter than 16 bytes"));
        let from = |path: &str| refused(program, 2, &["--secret-file", path], &[]);
        let message = from(&file(b"\n"));
        assert!(
            message.contains(scratch.file("secret").to_str().unwrap()) && message.contains("is empty"),
            "{message}"
        );
        assert!(from(&file(b"hunter2hunter2")).contains("is shorter than 16 bytes"));
        let nowhere = scratch.file("nowhere");
        let message = from(nowhere.to_str().unwrap());
        assert!(message.contains("nowhere cannot be read"), "{message}");
        let path = file(b"one secret, sixteen bytes or more");
        let message = refused(program, 2, &["--secret-file", &path], &[("PILCROW_SECRET", SECRET)]);
        assert!(message.contains("different secrets"), "{message}");
        assert!(!message.contains("one secret") && !message.contains(SECRET), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn a_secret_file_that_others_can_read_causes_a_warning() {
    let scratch = Scratch::new();
    let file = secret_file(&scratch, SECRET.as_bytes());
    let flags = ["--listen", "127.0.0.1:0", "--secret-file", &file];
    let warned = |process: &Process| process.log().iter().any(|line| line.contains("chmod 600"));
    let closed = start(&scratch, ALL[0], &flags, &[]);
    closed.await_log(&["secured"]);
    assert!(!warned(&closed));
    set_mode(&scratch.file("secret"), 0o644);
    let open = start(&scratch, ALL[0], &flags, &[]);
    open.await_log(&["WARN", &file, "644", "chmod 600"]);
}

#[test]
fn help_says_where_the_secret_comes_from_and_never_what_it_is() {
    for program in ALL {
        let variables = [("PILCROW_SECRET", SECRET), ("PILCROW_SECRET_FILE", "x")];
        let output = Program::at(program).flags(["--help"]).variables(&variables).run();
        assert_eq!(output.status, Some(0));
        let help = output.stdout;
        for word in ["--secret-file", "PILCROW_SECRET", "development mode"] {
            assert!(help.contains(word), "{help}");
        }
        assert!(!help.contains(SECRET), "{help}");
    }
}

#[test]
fn a_broken_line_in_the_env_file_is_reported_without_its_secret() {
    for line in [
        "PILCROW_SECRET=hunter2 hunter2 hunter2".to_owned(),
        "PILCROW_SECRET hunter2 hunter2".to_owned(),
        "PILCROW_SECRET=\"hunter2 hunter2\nhunter2\n".to_owned(),
    ] {
        let scratch = Scratch::new();
        fs::write(scratch.file(".env"), format!("# settings\nHOST=127.0.0.1\n{line}")).unwrap();
        let Output { status, stderr, .. } =
            Program::distributor().directory(scratch.path()).only_variables(&[]).run();
        assert_eq!(status, Some(2), "{stderr}");
        assert!(stderr.contains(".env") && stderr.contains("line 3"), "{stderr}");
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
}
