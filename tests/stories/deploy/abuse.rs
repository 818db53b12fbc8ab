//! Invalid, hostile and very slow requests from outside, while others are served.

use std::thread;
use std::time::{Duration, Instant};

use super::outsider::Tunnel;
use super::proxy::Proxy;
use crate::harness::{Connection, Echo, Http, PATIENCE, Process, await_instances, eventually};

/// A gateway with a played service, behind the proxy.
struct Stage {
    tunnel: Tunnel,
    proxy: Proxy,
    echo: Echo,
    gateway: Process,
    _distributor: Process,
}

impl Stage {
    fn start(gateway_flags: &[&str]) -> Option<Self> {
        let distributor = Process::distributor(&[]);
        let gateway = Process::gateway(&distributor, gateway_flags);
        let echo = Echo::start(&distributor, "stage", &["GET/echo", "POST/echo"]);
        await_instances(&gateway, "POST", "/echo", 1);
        let proxy = Proxy::before(&[gateway.address()])?;
        let tunnel = Tunnel::to(&proxy);
        Some(Self { tunnel, proxy, echo, gateway, _distributor: distributor })
    }

    fn http(&self) -> Http {
        self.tunnel.http()
    }

    /// The number of requests that the service got for this path parameter.
    fn count_requests(&self, parameter: &str) -> usize {
        self.echo.requests().iter().filter(|request| request.params()["params"] == parameter).count()
    }

    /// The number of requests for this path in the proxy's log.
    fn logged(&self, path: &str) -> usize {
        self.proxy.log().iter().filter(|line| line.contains(path)).count()
    }
}

/// A well-behaved client on one persistent connection. Every answer on it must be for this client.
struct Guest {
    connection: Connection,
    sent: usize,
}

impl Guest {
    fn of(stage: &Stage) -> Self {
        Self { connection: stage.http().connect(), sent: 0 }
    }

    fn asks(&mut self, meanwhile: &str) {
        self.sent += 1;
        let number = format!("guest-{}", self.sent);
        self.connection.send_request("GET", &format!("/echo/{number}"), &[], b"");
        let answer =
            self.connection.receive().unwrap_or_else(|| panic!("no answer for him after {meanwhile}"));
        assert_eq!(answer.status, 200, "after {meanwhile}: {}", answer.text());
        assert_eq!(
            answer.results()["params"]["params"],
            number,
            "an answer for another client after {meanwhile}"
        );
    }
}

/// The statuses of all answers on this connection until it ends or is silent.
fn statuses(connection: &mut Connection) -> Vec<u16> {
    connection.stream().set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    std::iter::from_fn(|| connection.receive()).map(|answer| answer.status).collect()
}

#[test]
#[ignore = "slow: forty connections, one after the other, each through a separate process"]
fn an_ambiguous_request_smuggles_nothing_past_the_proxy() {
    let Some(mut stage) = Stage::start(&[]) else { return };
    let mut guest = Guest::of(&stage);
    let hidden = "{}GET /echo/hidden HTTP/1.1\r\nHost: test\r\n\r\n";
    let headers = [
        "Content-Length: 2\r\nContent-Length: 2",
        "Content-Length: 2\r\nContent-Length: 20",
        "Content-Length: 2, 20",
        "Content-Length: +2",
        "Content-Length: -2",
        "Content-Length: 0x2",
        "Content-Length: 2 2",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 2",
        "Transfer-Encoding: identity\r\nContent-Length: 2",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: xchunked\r\nContent-Length: 2",
        "Transfer-Encoding: \"chunked\"\r\nContent-Length: 2",
        "Content-Length : 2",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked\r\nContent-Length: 2",
        "X: y\r\n Content-Length: 2",
        "Content-Length:\r\n 2",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: chu\0nked\r\nContent-Length: 2",
        "Transfer-Encoding: \u{b}chunked\r\nContent-Length: 2",
        "X: y\rTransfer-Encoding: chunked\r\nContent-Length: 2",
        "X: y\nTransfer-Encoding: chunked\r\nContent-Length: 2",
        "Content-Length: 2\n",
        "Connection: content-length\r\nContent-Length: 2",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 2",
    ];
    let chunks = [
        "0\r\n\r\nGET /echo/hidden HTTP/1.1\r\nHost: test\r\n\r\n",
        "0x2\r\n{}\r\n0\r\n\r\n",
        "+2\r\n{}\r\n0\r\n\r\n",
        "2;\0\r\n{}\r\n0\r\n\r\n",
        "2\n{}\n0\n\n",
        "fffffffffffffffff2\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}GET /echo/hidden HTTP/1.1\r\n\r\n",
    ];
    let head =
        |header: &str, body: &str| format!("POST /echo HTTP/1.1\r\nHost: test\r\n{header}\r\n\r\n{body}");
    let by_length = headers.iter().map(|header| ((*header).to_owned(), head(header, hidden)));
    let by_chunks =
        chunks.iter().map(|chunk| ((*chunk).to_owned(), head("Transfer-Encoding: chunked", chunk)));
    for (what, request) in by_length.chain(by_chunks) {
        let mut connection = stage.http().connect();
        connection.send(request.as_bytes());
        let statuses = statuses(&mut connection);
        assert!(statuses.len() <= 2, "{what:?}: two requests at most have {statuses:?}");
        guest.asks(&what);
    }
    // A second request on one connection is allowed. A request that only the gateway has seen is an attack.
    eventually("the proxy has forwarded every request that the service got", || {
        (stage.count_requests("hidden") == stage.logged("/echo/hidden")).then_some(())
    });
    let parted = stage.logged("/echo/hidden");
    assert!((1..=8).contains(&parted), "only a few harmless inputs are two requests: {parted}");
    assert!(stage.gateway.is_alive());
}

#[test]
fn a_malformed_request_is_rejected_and_disturbs_no_other() {
    let Some(mut stage) = Stage::start(&[]) else { return };
    let mut guest = Guest::of(&stage);
    let long = "x".repeat(100 * 1024);
    let crowd = "X: x\r\n".repeat(200);
    let deep = "[".repeat(10_000);
    let nonsense: [(&str, Vec<u8>); 14] = [
        ("a TLS hello inside of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(60)),
        (
            "the beginning of HTTP/2, and then none",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnone of this is a frame".to_vec(),
        ),
        ("bytes", (0..=255).collect()),
        ("HTTP/0.9", b"GET /echo\r\n\r\n".to_vec()),
        ("another protocol", b"GET /echo ICAP/1.0\r\n\r\n".to_vec()),
        ("a long query", format!("GET /echo?x={long} HTTP/1.1\r\nHost: test\r\n\r\n").into_bytes()),
        ("a long header", format!("GET /echo HTTP/1.1\r\nHost: test\r\nX: {long}\r\n\r\n").into_bytes()),
        ("many headers", format!("GET /echo HTTP/1.1\r\nHost: test\r\n{crowd}\r\n").into_bytes()),
        ("NUL in the path", b"GET /ec\0ho HTTP/1.1\r\nHost: test\r\n\r\n".to_vec()),
        ("a bad percent code", b"GET /echo/%zz HTTP/1.1\r\nHost: test\r\n\r\n".to_vec()),
        ("half of one", b"GET /%6detrics% HTTP/1.1\r\nHost: test\r\n\r\n".to_vec()),
        ("a way out", b"GET /echo/../../routes HTTP/1.1\r\nHost: test\r\n\r\n".to_vec()),
        ("another host's door", b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n".to_vec()),
        (
            "deep JSON",
            format!("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 10008\r\n\r\n{{\"name\":{deep}")
                .into_bytes(),
        ),
    ];
    for (what, bytes) in nonsense {
        let mut connection = stage.http().connect();
        connection.send(&bytes);
        let status = connection.receive().map(|answer| answer.status);
        assert!(status.is_none_or(|status| (400..=505).contains(&status)), "{what}: {status:?}");
        guest.asks(what);
    }
    // The same bytes on the plain port, which supports neither protocol.
    for bytes in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnone"]
    {
        let answer = Http::to(stage.proxy.http).raw(&bytes.repeat(60));
        assert!(answer.is_none_or(|answer| answer.status == 400));
        guest.asks("the plain port");
    }
    assert_eq!(stage.echo.requests().len(), guest.sent, "the guest's requests and no others have arrived");
    assert!(stage.gateway.is_alive());
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn a_flood_of_http_2_frames_closes_only_its_sender() {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const CONTINUATION: u8 = 9;
    let Some(mut stage) = Stage::start(&[]) else { return };
    let mut guest = Guest::of(&stage);
    // GET https://test/, by the indices of HPACK's table. The flags end the request and its head.
    let get = b"\x82\x87\x84\x41\x04test";
    let request = |number: u32| frame(HEADERS, 5, 2 * number + 1, get);
    let taken_back =
        |number: u32| [request(number), frame(RST_STREAM, 0, 2 * number + 1, &[0, 0, 0, 8])].concat();
    let head = frame(HEADERS, 1, 1, get);
    let more_head = frame(CONTINUATION, 0, 1, b"\x00\x01x\x01y").repeat(50_000);
    let floods: [(&str, Vec<u8>); 5] = [
        ("requests that are taken back at once", (0..5000).flat_map(taken_back).collect()),
        ("requests that wait for no answer", (0..5000).flat_map(request).collect()),
        ("a head without an end", [head, more_head].concat()),
        ("settings", frame(SETTINGS, 0, 0, b"\0\x04\0\0\xff\xff").repeat(50_000)),
        ("pings", frame(PING, 0, 0, b"answer!!").repeat(50_000)),
    ];
    let tunnel = Tunnel::with_protocol("h2", &stage.proxy);
    for (what, flood) in floods {
        let mut connection = tunnel.http().connect();
        connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        connection.send(&frame(SETTINGS, 0, 0, b""));
        for piece in flood.chunks(64 * 1024) {
            connection.send(piece);
            guest.asks(what);
        }
    }
    assert!(stage.logged("GET / HTTP/2.0") > 0, "the bytes are valid HTTP/2");
    assert!(stage.gateway.is_alive());
    #[cfg(target_os = "linux")]
    assert!(stage.proxy.peak_kib() < 96 * 1024, "{} KiB", stage.proxy.peak_kib());
}

#[test]
#[ignore = "slow: the proxy waits ten seconds for a head, and for a body"]
fn slow_clients_use_no_gateway_connection() {
    // There are fewer places than slow clients. If the proxy let them through, the guest would get 503.
    let Some(mut stage) = Stage::start(&["--max-connections", "8"]) else { return };
    let mut guest = Guest::of(&stage);
    guest.asks("nothing");
    let stops = [
        "GET /echo/slow HTTP/1.1\r\nHost: test\r\nX: ",
        "POST /echo/slow HTTP/1.1\r\nHost: test\r\nContent-Length: 500\r\n\r\n{",
    ];
    let mut slow: Vec<Connection> = (0..40).map(|_| stage.http().connect()).collect();
    for (connection, start) in slow.iter_mut().zip(stops.iter().cycle()) {
        connection.send(start.as_bytes());
    }
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        for connection in &mut slow {
            connection.send(b"x");
        }
        guest.asks("a byte from each of the slow ones");
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(stage.count_requests("slow"), 0);
    for connection in &mut slow {
        connection.stream().set_read_timeout(Some(PATIENCE)).unwrap();
        let answer = connection.receive().expect("an answer before the end");
        assert_eq!(answer.status, 408, "{}", answer.text());
    }
    guest.asks("the end of the slow ones");
    assert!(stage.gateway.log().iter().all(|line| !line.contains(" 503, ")), "no place was ever missing");
    assert!(stage.gateway.is_alive());
}
