//! `cargo lesson`: what it says about programs that are right, wrong, silent, too loud or dead.

mod course;

use std::fmt::Write;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{Output, Program, Scratch, eventually, free_port, tool};

/// A run may compile several programs, and the first one also compiles SQLite.
const PATIENCE: Duration = Duration::from_secs(240);

/// Two learners' files of one lesson have one name for cargo, so they are compiled one at a time.
static RUST_FILES: Mutex<()> = Mutex::new(());

/// A service in Python that gives each packet to the function `answer`.
const SERVICE: &str = r#"
import json, socket, subprocess, sys, time
host, port = sys.argv[1].split(":")
server = socket.create_server((host, int(port)))

def serve(connection):
    buffer = b""
    while True:
        piece = connection.recv(4096)
        if not piece:
            return
        buffer += piece
        while b"\xc2\xb6" in buffer:
            text, buffer = buffer.split(b"\xc2\xb6", 1)
            answer(connection, json.loads(text))

def send(connection, packet):
    connection.sendall((json.dumps(packet) + "¶").encode())

def run():
    while True:
        connection, _ = server.accept()
        with connection:
            serve(connection)
"#;

/// The service whose function `answer` has this body.
fn service(answer: &str) -> String {
    let mut program = SERVICE.to_owned();
    program += "\ndef answer(connection, packet):\n";
    for line in answer.lines() {
        writeln!(program, "    {line}").unwrap();
    }
    program + "\nrun()\n"
}

/// The tool with these flags, and its own folder for programs.
fn lesson(scratch: &Scratch, flags: &[&str]) -> Program {
    let tool = Program::at(tool("pilcrow-lesson").to_str().unwrap());
    let work = [("LESSON_WORK", scratch.path().to_str().unwrap()), ("LC_ALL", "C.UTF-8")];
    tool.flags(["--no-build"]).flags(flags).variables(&work).patience(PATIENCE)
}

/// Checks a Python program as lesson 1.
fn check(program: &str, flags: &[&str]) -> Output {
    let scratch = Scratch::new();
    fs::write(scratch.file("1.py"), program).unwrap();
    lesson(&scratch, &[&["1"], flags].concat()).run()
}

/// The output has all of these texts.
fn assert_shows(output: &Output, texts: &[&str]) {
    for text in texts {
        assert!(output.stdout.contains(text), "no `{text}` in:\n{}\n{}", output.stdout, output.stderr);
    }
}

#[test]
fn a_wrong_reply_is_shown_with_what_was_sent_and_expected_and_a_hint() {
    let wrong =
        service("send(connection, {'key': packet['key'] + 1, 'errorcode': 0, 'results': 'hello Kim'})");
    let output = check(&wrong, &[]);
    assert_eq!(output.status, Some(1));
    let sent = r#"sent        caller → {"uri":"/hello","method":"GET","key":1,"params":{"name":"Kim"}}¶"#;
    let expected = r#"expected    {"key":1,"errorcode":0,"errormessage":"success","results":"hello Kim"}¶"#;
    let got = r#"got         {"key":2,"errorcode":0,"results":"hello Kim"}¶"#;
    let hint = "hint        Read until ¶";
    assert_shows(
        &output,
        &["✓ starts", "✗ one-packet", "One packet gets one reply.", sent, expected, got, hint],
    );
    assert!(!output.stdout.contains("two-in-one-write"), "it stops at the first failure");
}

#[test]
fn messages_are_in_korean_by_flag_and_by_locale() {
    let silent = service("pass");
    for output in [check(&silent, &["--lang", "ko"]), {
        let scratch = Scratch::new();
        fs::write(scratch.file("1.py"), &silent).unwrap();
        lesson(&scratch, &["1"]).variables(&[("LC_ALL", "ko_KR.UTF-8")]).run()
    }] {
        assert_shows(
            &output,
            &["1과. read 한 번은 패킷 하나가 아니다", "보냄        호출자 → {", "기대        {\"key\":1"],
        );
        assert_shows(&output, &["받음        3초 동안 아무것도 오지 않았습니다", "힌트        ¶까지 읽고"]);
    }
}

#[test]
fn a_program_that_hangs_is_reported() {
    let output = check(&service("time.sleep(600)"), &[]);
    assert_eq!(output.status, Some(1));
    assert_shows(&output, &["✗ one-packet", "got         nothing within 3 s"]);
    // It accepts no connection at all.
    let output = check("import time\ntime.sleep(600)\n", &[]);
    assert_shows(&output, &["✗ starts", "within 10 s", "got         it runs, but nobody listens there"]);
}

#[test]
fn a_program_that_floods_its_connection_or_its_output_is_reported_and_ended() {
    let flood = service("while True: connection.sendall(b'x' * 65536)");
    assert_shows(&check(&flood, &[]), &["got         more than 4 MiB without an end; it begins: xxxx"]);
    let loud = service("while True: print('x' * 1000)");
    assert_shows(
        &check(&loud, &[]),
        &["✗ one-packet", "program     it printed more than 4 MiB and was ended"],
    );
}

#[test]
fn a_program_that_crashes_is_reported_with_its_last_lines() {
    let output = check(&service("raise ValueError('no packet today')"), &[]);
    assert_eq!(output.status, Some(1));
    assert_shows(
        &output,
        &["got         the connection was closed", "program     it has ended by itself: exit status: 1"],
    );
    assert_shows(&output, &["ValueError: no packet today"]);
    // Also if the reply was right. It may end a moment later, in the next check.
    let right = "send(connection, {'key': 1, 'errorcode': 0, 'errormessage': '', 'results': 'hello Kim'})\nsys.exit(7)";
    let output = check(&service(right), &[]);
    assert_shows(&output, &["✗ ", "it has ended by itself: exit status: 7"]);
}

#[test]
fn nothing_outlives_the_tool_after_ctrl_c() {
    let scratch = Scratch::new();
    let (ports, child) = (scratch.file("ports"), free_port());
    // The program starts a child of its own, which listens too.
    let script = format!(
        "code = 'import socket, time; s = socket.create_server((\"127.0.0.1\", {child})); time.sleep(600)'\n\
         subprocess.Popen([sys.executable, '-c', code])\n\
         open({:?}, 'w').write(port)\ntime.sleep(600)",
        ports.display().to_string()
    );
    fs::write(scratch.file("1.py"), service(&script)).unwrap();
    let mut tool = lesson(&scratch, &["1"]).watch();
    let port =
        eventually("the program has got a packet", || fs::read_to_string(&ports).ok()?.parse::<u16>().ok());
    let is_open = |port: u16| TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_ok();
    eventually("the child of the program listens", || is_open(child).then_some(()));
    tool.signal(Signal::SIGINT);
    while tool.line().is_some() {}
    eventually("both have ended", || (!is_open(port) && !is_open(child)).then_some(()));
}

#[test]
fn the_small_system_and_the_real_one_pass_the_checks() {
    let scratch = Scratch::new();
    let check = |number: &str, name: &str, flags: &str| {
        let script = format!("exec {} {flags}", tool(name).display());
        let output = lesson(&scratch, &[number, "--", "sh", "-c", &script]).run();
        assert_eq!(output.status, Some(0), "{name}:\n{}", output.stdout);
        assert_shows(&output, &["All checks have passed."]);
    };
    check("5", "small-distributor", "--listen $0");
    check("7", "small-users", "--listen $0 --distributor $1 --database $2");
    check("4", "gateway", "--timeout 2 --listen $0 --distributor $1");
    let output = lesson(&scratch, &[]).run();
    assert_shows(&output, &["✓ 4  HTTP in front", "✓ 7  Every change", "  1  One read is not one packet"]);
}

#[test]
fn a_program_in_rust_is_compiled_and_errors_are_shown_as_cargo_prints_them() {
    let _one_at_a_time = RUST_FILES.lock();
    let scratch = Scratch::new();
    let good = "fn main() { let listen = std::env::args().nth(1).unwrap();\n\
                std::net::TcpListener::bind(listen).unwrap().incoming().for_each(drop); }\n";
    fs::write(scratch.file("3.rs"), good).unwrap();
    let output = lesson(&scratch, &["3", "--only"]).run();
    assert_shows(&output, &["✓ starts", "✗ one-call"]);
    fs::write(scratch.file("3.rs"), "fn main() { let number: u8 = \"text\"; }\n").unwrap();
    let output = lesson(&scratch, &["3", "--only"]).run();
    assert_eq!(output.status, Some(1));
    assert!(output.stderr.contains("error[E0308]: mismatched types"), "{}", output.stderr);
}
