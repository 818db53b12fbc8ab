//! Ports and routes that are closed to the outside.

use std::net::TcpStream;
use std::time::Duration;

use super::outsider::{Curl, Tunnel, VERSIONS, handshake};
use super::played_gateway::PlayedGateway;
use super::proxy::Proxy;
use crate::harness::{Connection, Echo, Http, PATIENCE, Process, await_instances, eventually};

#[test]
fn tls_versions_before_1_2_are_rejected() {
    let gateway = PlayedGateway::start();
    let Some(proxy) = Proxy::before(&[gateway.address()]) else { return };
    for version in ["-tls1_2", "-tls1_3"] {
        let output = handshake(&proxy, &[version, "-verify_return_error"]);
        assert!(output.status.success(), "{version}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // Without level 0, this machine's openssl would not even offer it.
    let old = handshake(&proxy, &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]);
    let why = String::from_utf8_lossy(&old.stderr);
    assert!(!old.status.success() && why.contains("alert protocol version"), "{why}");
    let weak = handshake(&proxy, &["-tls1_2", "-cipher", "AES128-SHA:DHE-RSA-AES128-SHA"]);
    assert!(!weak.status.success(), "a weak cipher");
}

#[test]
fn plain_http_is_redirected_and_writes_over_it_are_rejected() {
    let gateway = PlayedGateway::start();
    let Some(proxy) = Proxy::before(&[gateway.address()]) else { return };
    let http = Http::to(proxy.http);
    for method in ["GET", "HEAD"] {
        let answer = http.request(method, "/users?limit=1", &[], b"");
        assert_eq!((answer.status, answer.header("Location")), (301, Some("https://test/users?limit=1")));
    }
    for method in ["POST", "PATCH", "DELETE", "PUT"] {
        let answer = http.request(method, "/users", &[], b"password=correct-horse");
        assert_eq!((answer.status, answer.message().as_str()), (403, "use https"), "{method}");
    }
    assert!(gateway.heads().is_empty(), "{:?}", gateway.heads());
}

#[test]
fn the_acme_challenge_is_reachable_by_plain_http() {
    let (gateway, acme) = (PlayedGateway::start(), PlayedGateway::start());
    let address = acme.address().to_string();
    let Some(proxy) = Proxy::with(&[gateway.address()], &[("PILCROW_ACME", &address)]) else { return };
    let answer = Http::to(proxy.http).get("/.well-known/acme-challenge/proof");
    assert_eq!((answer.status, answer.text().as_str()), (200, "played"));
    assert_eq!((acme.heads().len(), gateway.heads().len()), (1, 0));
}

#[test]
fn internal_paths_are_closed_in_every_spelling() {
    // The played gateway answers everything, so an answer shows that the request passed the proxy.
    let gateway = PlayedGateway::start();
    let Some(proxy) = Proxy::before(&[gateway.address()]) else { return };
    let tunnel = Tunnel::to(&proxy);
    let paths = [
        "/metrics",
        "/metrics?name=x",
        "/metrics?",
        "/%6detrics",
        "/m%65tric%73",
        "/routes",
        "/journeys",
        "/%72%6F%75tes",
        "http://test/metrics",
        "HTTP://test/routes",
        "https://test/routes",
    ];
    for path in paths {
        for method in ["GET", "HEAD", "POST"] {
            let answer = tunnel.http().request(method, path, &[], b"");
            assert_eq!(answer.status, 403, "{method} {path}");
        }
    }
    for version in VERSIONS {
        let answer = Curl { proxy: &proxy, version }.ask("/%6detrics", &[]);
        assert_eq!(answer.status, 403);
        assert!(answer.message().contains("for those inside"), "{}", answer.text());
    }
    assert!(gateway.heads().is_empty(), "{:?}", gateway.heads());
    assert_eq!(tunnel.http().get("/metric").status, 200, "only these two");
}

#[test]
fn a_client_cannot_forge_its_address_or_request_id() {
    let gateway = PlayedGateway::start();
    let Some(proxy) = Proxy::before(&[gateway.address()]) else { return };
    let forged = ["X-Forwarded-For: 6.6.6.6", "x-forwarded-for: 7.7.7.7, 8.8.8.8", "X-FORWARDED-HOST: evil"];
    let more =
        ["X-Forwarded-Proto: http", "Forwarded: for=6.6.6.6", "X-Real-IP: 6.6.6.6", "X-Request-Id: mine"];
    let forged: Vec<&str> = forged.iter().chain(&more).flat_map(|header| ["-H", header]).collect();
    for version in VERSIONS {
        assert_eq!(Curl { proxy: &proxy, version }.ask("/users", &forged).status, 200);
    }
    for head in gateway.heads() {
        let head = head.to_lowercase();
        let all = |name: &str| -> Vec<&str> {
            head.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
        };
        assert_eq!(all("x-forwarded-for"), ["127.0.0.1"], "{head}");
        assert_eq!(all("x-forwarded-proto"), ["https"], "{head}");
        assert!(matches!(all("x-request-id")[..], [id] if id.len() == 36), "{head}");
        for gone in ["evil", "6.6.6.6", "7.7.7.7", "8.8.8.8", "mine"] {
            assert!(!head.contains(gone), "{gone}: {head}");
        }
    }
    assert_eq!(gateway.heads().len(), 2);
    // Names that some programs would read as the same name.
    let answer =
        Curl { proxy: &proxy, version: "--http1.1" }.ask("/users", &["-H", "X_Forwarded_For: 6.6.6.6"]);
    assert_eq!((answer.status, gateway.heads().len()), (403, 2));
}

#[cfg(target_os = "linux")] // where all of 127.0.0.0/8 is this machine
#[test]
fn a_service_learns_the_address_of_the_client_and_not_that_of_the_proxy() {
    let distributor = Process::distributor(&[]);
    let echo = Echo::start(&distributor, "stage", &["GET/echo"]);
    let gateway = Process::gateway(&distributor, &["--trusted-proxy", "127.0.0.1"]);
    await_instances(&gateway, "GET", "/echo", 1);
    let Some(proxy) = Proxy::before(&[gateway.address()]) else { return };
    for version in VERSIONS {
        let forged = ["--interface", "127.0.0.9", "-H", "X-Forwarded-For: 6.6.6.6"];
        assert_eq!(Curl { proxy: &proxy, version }.ask("/echo", &forged).status, 200);
    }
    for request in echo.await_requests(2) {
        assert_eq!(request.packet["client"], "127.0.0.9");
    }
}

#[test]
fn an_address_that_guesses_passwords_is_stopped_before_the_gateway() {
    let gateway = PlayedGateway::start();
    let Some(proxy) = Proxy::with(&[gateway.address()], &[("PILCROW_LOGINS", "4")]) else { return };
    let curl = Curl { proxy: &proxy, version: "--http2" };
    let guess = |path: &str| curl.ask(path, &["-d", "email=kim@example.com", "-d", "password=guessed-it"]);
    for path in ["/users/login", "/users/%6cogin", "/users/login?x=1", "/users/login"] {
        assert_eq!(guess(path).status, 200, "{path}");
    }
    for path in ["/users/login", "/users/%6cogin", "/users/login?x=2"] {
        let answer = guess(path);
        assert_eq!((answer.status, answer.header("Retry-After")), (429, Some("60")), "{path}");
    }
    assert_eq!(gateway.heads().len(), 4);
    assert_eq!(guess("/users").status, 200, "other requests are served");
}

#[test]
fn one_address_can_hold_only_so_many_connections() {
    let gateway = PlayedGateway::start();
    let Some(proxy) = Proxy::with(&[gateway.address()], &[("PILCROW_PER_ADDRESS", "8")]) else { return };
    let connect = || Connection::on(TcpStream::connect(proxy.https).unwrap());
    let stays = |one: &Connection| !one.is_closed_within(Duration::from_millis(20));
    // The proxy may still count the connections that the story used to check that it listens.
    let held = eventually("eight connections stay", || {
        let held: Vec<Connection> = (0..8).map(|_| connect()).collect();
        held.iter().all(stays).then_some(held)
    });
    assert!(connect().is_closed_within(PATIENCE), "the ninth");
    assert!(held.iter().all(stays));
    drop(held);
    let curl = Curl { proxy: &proxy, version: "--http2" };
    eventually("there is room again", || {
        let output = std::process::Command::new("curl").args(curl.arguments("/users", &[])).output().unwrap();
        output.status.success().then_some(())
    });
}

#[test]
fn a_proxy_without_its_certificate_says_what_to_set() {
    let Some(haproxy) = super::program("haproxy") else { return };
    let cfg = super::deployed("haproxy.cfg");
    let output =
        std::process::Command::new(haproxy).arg("-c").arg("-f").arg(cfg).env_clear().output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("PILCROW_CERT is not set"), "{stderr}");
}
