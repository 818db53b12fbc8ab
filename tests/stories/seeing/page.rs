//! `--metrics-listen`: any process can serve its metrics on a separate port.

use crate::harness::{Http, Output, Process, Program, Scratch, eventually};

const ANY: [&str; 2] = ["--metrics-listen", "127.0.0.1:0"];

/// The metrics page whose address this process has logged.
fn page_of(process: &Process) -> Http {
    let line = process.await_log(&["metrics are shown at http://"]);
    let address = line.rsplit_once("http://").unwrap().1.trim_end_matches("/metrics");
    Http::to(address.parse().unwrap())
}

#[test]
fn each_process_serves_its_metrics_and_nothing_else_on_the_metrics_port() {
    let scratch = Scratch::new();
    let distributor = Process::distributor(&ANY);
    let users = Process::users(&distributor, &scratch, &ANY);
    let gateway = Process::gateway(&distributor, &ANY);
    for (process, name) in [(&distributor, "distributor"), (&users, "users"), (&gateway, "gateway")] {
        let page = page_of(process);
        assert_eq!(page.metrics().find("pilcrow_build_info", &[("process", name)]), Some(1.0));
        assert_eq!(page.get("/healthz").results(), "serving");
        assert!(page.get("/healthz").body.ends_with(b"\n") && page.get("/x").body.ends_with(b"\n"));
        assert_eq!(page.request("HEAD", "/metrics", &[], b"").status, 200);
        for path in ["/", "/users", "/routes", "/readyz", "/metrics/", "/metrics/x", "/%6Detricsx"] {
            assert_eq!(page.get(path).status, 404, "{path}");
        }
        let refused = page.request("POST", "/metrics", &[], b"");
        assert_eq!((refused.status, refused.header("Allow")), (405, Some("GET, HEAD")));
        assert_eq!(page.raw(b"GET /metrics HTTP/1.1\n\n").unwrap().status, 400);
    }
}

#[test]
fn the_metrics_page_rejects_connections_over_its_limit_and_recovers() {
    let distributor = Process::distributor(&ANY);
    let page = page_of(&distributor);
    let mut held: Vec<_> = (0..32).map(|_| page.connect()).collect();
    for connection in &mut held {
        connection.send_request("GET", "/healthz", &[], b"");
        assert_eq!(connection.receive().unwrap().status, 200);
    }
    assert_eq!(page.get("/healthz").status, 503);
    let refused = distributor.metrics();
    assert_eq!(refused.value("pilcrow_connections_refused_total", &[("port", "metrics")]), 1.0);
    assert_eq!(refused.value("pilcrow_connections_open", &[("port", "metrics")]), 32.0);
    drop(held);
    eventually("there is room again", || (page.get("/healthz").status == 200).then_some(()));
}

#[test]
fn the_metrics_page_accepts_loopback_only_and_names_the_flag_of_a_port_in_use() {
    let scratch = Scratch::new();
    let distributor = Process::distributor(&[]);
    let taken = distributor.address().to_string();
    let database = scratch.file("users.db");
    for (program, flags) in [
        (env!("CARGO_BIN_EXE_distributor"), vec![]),
        (env!("CARGO_BIN_EXE_gateway"), vec![]),
        (env!("CARGO_BIN_EXE_users"), vec!["--database", database.to_str().unwrap()]),
    ] {
        for (address, words) in [("0.0.0.0:0", "development mode"), (&*taken, "--metrics-listen")] {
            let program = Program::at(program).flags(&flags).flags(["--listen", "127.0.0.1:0"]);
            let Output { status, stdout, stderr } = program.flags(["--metrics-listen", address]).run();
            assert_eq!((status, stdout.as_str()), (Some(1), ""), "{stderr}");
            let last = stderr.lines().last().unwrap();
            assert!(last.contains(words) && last.contains(address), "{stderr}");
        }
    }
}
