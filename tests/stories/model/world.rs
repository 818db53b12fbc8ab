//! The processes, each on a fixed port, and the data that their clients need.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::harness::{
    Http, Packets, Process, Program, Random, Scratch, await_instances, eventually, free_port,
};

/// A part that may be killed.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    Users(usize),
    Gateway,
    Distributor,
}

pub struct World {
    gateway: Option<Process>,
    users: [Option<Process>; 2],
    distributor: Option<Process>,
    distributor_address: SocketAddr,
    scratch: Scratch,
    shared: Arc<Shared>,
}

/// The knowledge of the clients.
pub struct Shared {
    pub gateway: SocketAddr,
    pub users: [SocketAddr; 2],
    /// The number of acknowledged writes.
    pub acknowledged: AtomicUsize,
    /// The users at the time of the last write: id and version.
    pub known: Mutex<Vec<(u64, u64)>>,
    /// Whether processes are killed, so that a request may end without a reply.
    pub unsafe_world: bool,
}

/// The name of the user whose creation is the last change.
pub const THE_LAST: &str = "the last";

fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

impl World {
    pub fn start(unsafe_world: bool) -> Self {
        let shared = Arc::new(Shared {
            gateway: address(),
            users: [address(), address()],
            acknowledged: AtomicUsize::new(0),
            known: Mutex::default(),
            unsafe_world,
        });
        let mut world = Self {
            gateway: None,
            users: [None, None],
            distributor: None,
            distributor_address: address(),
            scratch: Scratch::new(),
            shared,
        };
        for part in [Part::Distributor, Part::Users(0), Part::Users(1), Part::Gateway] {
            world.run(part);
        }
        await_instances(world.gateway.as_ref().unwrap(), "GET", "/users/changes", 2);
        world
    }

    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Starts this part, or restarts it at the same address.
    fn run(&mut self, part: Part) {
        let distributor = self.distributor_address;
        let (place, program, address) = match part {
            Part::Distributor => (&mut self.distributor, Program::distributor(), distributor),
            Part::Users(number) => {
                let users = Program::users(distributor, &self.scratch);
                (&mut self.users[number], users, self.shared.users[number])
            }
            Part::Gateway => (&mut self.gateway, Program::gateway(distributor), self.shared.gateway),
        };
        if let Some(running) = place.take() {
            running.kill();
        }
        let program = program.flags(["--listen", &address.to_string()]).variables(&[("RUST_LOG", "info")]);
        *place = Some(program.start());
    }

    /// Kills and restarts parts, each time after a random number of further writes. It stops after `kills` kills, or
    /// when `writes` have been acknowledged.
    pub fn kill_at_random(&mut self, parts: &[Part], kills: usize, writes: usize, mut random: Random) {
        for kill in 0..kills {
            let now = self.shared.acknowledged.load(Ordering::SeqCst);
            let pause = random.index(2 * (writes - now) / (kills - kill + 1) + 1);
            eventually(&format!("{pause} further writes are acknowledged"), || {
                (self.shared.acknowledged.load(Ordering::SeqCst) >= now + pause).then_some(())
            });
            let part = parts[random.index(parts.len())];
            println!("after {:4} writes: kill -9 {part:?}", now + pause);
            self.run(part);
        }
    }

    /// All changes, from the API.
    pub fn all_changes(&self) -> Vec<Value> {
        self.shared.read_all("/users/changes?")
    }

    /// All users, from the API, by id.
    pub fn all_users(&self) -> HashMap<u64, Value> {
        let by_id = |user: Value| (user["id"].as_u64().unwrap(), user);
        self.shared.read_all("/users?").into_iter().map(by_id).collect()
    }
}

impl Shared {
    /// Makes the last change, after all writes and kills. Returns its number.
    pub fn write_the_last(&self) -> u64 {
        let params = json!({ "email": "last@example.com", "name": THE_LAST });
        let reply = Packets::to(self.users[0]).call("POST", "/users", &params, 1);
        assert_eq!(reply["errorcode"], 0, "{reply}");
        reply["seq"].as_u64().unwrap()
    }

    fn read_all(&self, path: &str) -> Vec<Value> {
        let (mut all, mut after) = (Vec::new(), json!(0));
        while !after.is_null() {
            let page = eventually("the gateway reaches users", || {
                let page = Http::to(self.gateway).get(&format!("{path}limit=500&after={after}"));
                Some(page).filter(|page| page.status == 200)
            });
            all.extend(page.results().as_array().unwrap().iter().cloned());
            after = page.reply()["next"].clone();
        }
        all
    }
}
