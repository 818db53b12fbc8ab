//! The small system of `lessons/`: each of its three programs replaces the real one.

mod combinations;
mod faults;
mod feed;
mod readme;

use serde_json::{Value, json};

use crate::harness::{Http, Process, Program, Scratch, eventually, free_port, tool};

/// Which of the programs that exist once are small.
#[derive(Clone, Copy)]
struct Kinds {
    distributor: Kind,
    gateway: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Small,
    Real,
}

use Kind::{Real, Small};

const ALL_SMALL: Kinds = Kinds { distributor: Small, gateway: Small };

/// A running system. Fields are dropped in their declaration order.
struct Trio {
    gateway: Process,
    users: Vec<Process>,
    distributor: Process,
    scratch: Scratch,
}

impl Kind {
    fn distributor(self) -> Program {
        if self == Real { Program::distributor() } else { small("small-distributor", &[]) }
    }

    fn users(self, distributor: &str, scratch: &Scratch) -> Program {
        let database = scratch.file("users.db");
        let flags = ["--distributor", distributor, "--database", database.to_str().unwrap()];
        if self == Real { Program::users(distributor, scratch) } else { small("small-users", &flags) }
    }

    fn gateway(self, distributor: &str) -> Program {
        if self == Real {
            return Program::gateway(distributor);
        }
        small("small-gateway", &["--distributor", distributor])
    }
}

fn small(name: &str, flags: &[&str]) -> Program {
    Program::at(tool(name).to_str().unwrap()).flags(flags)
}

/// Starts it on a port that no other process uses.
fn start(program: Program) -> Process {
    program.flags(["--listen", &format!("127.0.0.1:{}", free_port())]).start()
}

impl Trio {
    /// A system with one users instance of each given kind, whose gateway is linked to all of them.
    fn start(kinds: Kinds, users: &[Kind]) -> Self {
        let scratch = Scratch::new();
        let distributor = start(kinds.distributor.distributor());
        let address = distributor.address().to_string();
        let users: Vec<Process> = users.iter().map(|kind| start(kind.users(&address, &scratch))).collect();
        let gateway = start(kinds.gateway.gateway(&address));
        for one in &users {
            await_link(&gateway, one.port(), 1);
        }
        Self { gateway, users, distributor, scratch }
    }

    fn http(&self) -> Http {
        self.gateway.http()
    }

    fn create(&self, email: &str) -> Value {
        let answer = self.http().post("/users", &json!({ "email": email, "name": "Kim" }));
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.results()
    }
}

/// Waits until the gateway has had a link to this port this many times.
fn await_link(gateway: &Process, port: u16, times: usize) {
    let words = format!(":{port}: up");
    eventually(&format!("the gateway has a link to port {port}"), || {
        let lines = gateway.log();
        let ups = lines.iter().filter(|line| line.contains("link ") && line.ends_with(&words));
        (ups.count() >= times).then_some(())
    });
}
