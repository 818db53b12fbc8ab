//! Passwords and tokens are stored only as hashes, and appear in no log.

use serde_json::{Value, json};

use super::{PASSWORD, create, log_in};
use crate::harness::{Echo, Http, Packets, Program, Scratch, System, await_instances};

#[test]
fn passwords_and_tokens_are_stored_as_hashes_alone() {
    let system = System::start();
    let http = system.http();
    create(&http, "kim@example.com", "Kim", Some(PASSWORD));
    let login = log_in(&http, "kim@example.com", PASSWORD).results();
    let token = login["token"].as_str().unwrap();
    let mut stored = Vec::new();
    for file in ["users.db", "users.db-wal"] {
        stored.extend(std::fs::read(system.scratch.file(file)).unwrap_or_default());
    }
    let holds = |text: &str| stored.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    assert!(holds("kim@example.com") && holds("$argon2id$v=19$"));
    assert!(!holds(PASSWORD) && !holds(token));
}

#[test]
fn no_log_contains_passwords_or_tokens_even_at_trace() {
    let scratch = Scratch::new();
    let start = |program: Program| program.variables(&[("RUST_LOG", "trace")]).start();
    let short_frames = ["--max-frame", "4096"];
    let distributor = start(Program::distributor().flags(short_frames));
    let users = start(Program::users(distributor.address(), &scratch).flags(short_frames));
    let gateway = start(Program::gateway(distributor.address()));
    await_instances(&gateway, "POST", "/users/login", 1);

    let mut secrets = Secrets::default();
    use_passwords_well(&gateway.http(), &mut secrets);
    use_passwords_badly(&gateway.http(), &mut secrets);
    for port in [users.address(), distributor.address()] {
        for frame in broken_frames(&mut secrets) {
            let mut packets = Packets::to(port);
            packets.send_raw(&frame);
            let _ = packets.stream().shutdown(std::net::Shutdown::Write);
            while packets.receive_text().is_some() {} // until it is closed
        }
    }
    let careless = secrets.fresh();
    let leaky = Echo::answering(&distributor, "leaky", &["GET/leaky"], move |request| {
        request.raw(format!("{{\"key\":1,\"results\":{{\"token\":\"{careless}\"}}¶").as_bytes());
    });
    await_instances(&gateway, "GET", "/leaky", 1);
    assert_eq!(gateway.http().get("/leaky").status, 502);
    drop(leaky);

    let term = nix::sys::signal::Signal::SIGTERM;
    let logs = [gateway, users, distributor].map(|process| process.end_by(term).log);
    for (log, broken) in logs.iter().zip([1, 8, 8]) {
        let noticed = log.iter().filter(|line| line.contains(" closed: ")).count();
        assert_eq!(noticed, broken, "{log:#?}");
        for secret in &secrets.0 {
            let exposed: Vec<&String> = log.iter().filter(|line| line.contains(secret)).collect();
            assert!(exposed.is_empty(), "the log contains the secret {secret}: {exposed:#?}");
        }
    }
}

/// Passwords and tokens that were in use, each recognisable without context.
#[derive(Default)]
struct Secrets(Vec<String>);

impl Secrets {
    fn fresh(&mut self) -> String {
        self.0.push(format!("hush-{}-hush", self.0.len()));
        self.0.last().unwrap().clone()
    }
}

fn use_passwords_well(http: &Http, secrets: &mut Secrets) {
    let (first, second) = (secrets.fresh(), secrets.fresh());
    create(http, "kim@example.com", "Kim", Some(&first));
    assert_eq!(log_in(http, "kim@example.com", &first).status, 200);
    assert_eq!(http.patch("/users/1", &json!({ "password": second })).status, 200);
    let login = log_in(http, "kim@example.com", &second);
    secrets.0.push(login.results()["token"].as_str().unwrap().to_owned());
    let form = format!("email=kim%40example.com&password={second}");
    let form_type = [("Content-Type", "application/x-www-form-urlencoded")];
    assert_eq!(http.request("POST", "/users/login", &form_type, form.as_bytes()).status, 200);
}

fn use_passwords_badly(http: &Http, secrets: &mut Secrets) {
    let email = "kim@example.com";
    assert_eq!(log_in(http, email, &secrets.fresh()).status, 401);
    let send = |method: &str, path: &str, media_type: &str, body: String| {
        http.request(method, path, &[("Content-Type", media_type)], body.as_bytes())
    };
    let (login, json, form) = ("/users/login", "application/json", "application/x-www-form-urlencoded");
    let lee = |password: Value| json!({ "email": "lee@example.com", "name": "Lee", "password": password });
    let answers = [
        http.post("/users", &lee(json!(secrets.fresh().repeat(20)))),
        http.post("/users", &lee(json!([secrets.fresh()]))),
        http.post("/users", &lee(json!({ secrets.fresh(): secrets.fresh() }))),
        http.post(login, &json!({ "email": email, "pasword": secrets.fresh() })),
        http.get(&format!("/users?email={email}&password={}", secrets.fresh())),
        send("POST", login, json, format!("{{\"password\":\"{}", secrets.fresh())),
        send("POST", login, json, json!(format!("password {}", secrets.fresh())).to_string()),
        send("POST", login, form, format!("password={}%", secrets.fresh())),
        send("POST", login, "text/plain", format!("password={}", secrets.fresh())),
        send("PUT", login, json, json!({ "password": secrets.fresh() }).to_string()),
        http.request("GET", login, &[("X-Request-Id", &secrets.fresh().repeat(20))], b""),
        http.get(&format!("/nowhere?token={}", secrets.fresh())),
        http.raw(format!("GET /users?token={} HTTP/9.9\r\n\r\n", secrets.fresh()).as_bytes()).unwrap(),
    ];
    let statuses = answers.map(|answer| answer.status);
    assert_eq!(statuses, [400, 400, 400, 400, 400, 400, 400, 400, 415, 405, 400, 404, 400]);
}

/// Login packets that violate the wire rules, each in a different way.
fn broken_frames(secrets: &mut Secrets) -> Vec<Vec<u8>> {
    let mut login = || {
        let params = json!({ "email": "kim@example.com", "password": secrets.fresh() });
        json!({ "uri": "/users/login", "method": "POST", "key": 1, "params": params }).to_string()
    };
    let wrap = |text: String| [text.as_bytes(), "¶".as_bytes()].concat();
    let mut not_utf8 = wrap(login());
    not_utf8.insert(3, 0xFF);
    vec![
        wrap(login() + "}"),
        wrap(login().replace("\"params\"", "'params'")),
        // A raw ¶ in the password, from a node of ours.
        wrap(login().replace("-hush", "¶-hush").replace("\"key\"", "\"deadline_ms\":5000,\"key\"")),
        wrap(json!(login()).to_string()),   // JSON in a JSON text
        wrap(json!([login()]).to_string()), // an array
        wrap(login().replace("kim@", &"k".repeat(5000))), // too long
        not_utf8,
        login().into_bytes(), // the connection ends before the ¶
    ]
}
