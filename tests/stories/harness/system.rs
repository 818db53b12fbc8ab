//! The builder for a whole system of processes.

use serde_json::{Value, json};

use super::{Http, Process, Program, SECRET, Scratch, await_instances};

/// A distributor, some users instances on one database, and a gateway, all serving and linked.
///
/// Fields are dropped in their declaration order: front to back.
pub struct System {
    pub gateway: Process,
    pub users: Vec<Process>,
    pub distributor: Process,
    pub scratch: Scratch,
}

/// A system that has not started yet. Without further settings it has one users instance and no secret.
pub struct SystemBuilder {
    scratch: Option<Scratch>,
    distributor: Option<Process>,
    users: usize,
    users_flags: Vec<String>,
    gateway_flags: Vec<String>,
    variables: &'static [(&'static str, &'static str)],
}

impl System {
    /// A system with default settings.
    pub fn start() -> Self {
        Self::builder().start()
    }

    pub fn builder() -> SystemBuilder {
        SystemBuilder {
            scratch: None,
            distributor: None,
            users: 1,
            users_flags: Vec::new(),
            gateway_flags: Vec::new(),
            variables: &[],
        }
    }

    /// Waits until the gateway distributes requests of this route over this many instances.
    pub fn await_instances(&self, method: &str, path: &str, count: usize) {
        await_instances(&self.gateway, method, path, count);
    }

    /// A client of the gateway.
    pub fn http(&self) -> Http {
        self.gateway.http()
    }

    /// Creates a user and returns it.
    pub fn create_user(&self, email: &str, name: &str) -> Value {
        let answer = self.http().post("/users", &json!({ "email": email, "name": name }));
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.results()
    }
}

impl SystemBuilder {
    /// The directory of the database.
    pub fn scratch(mut self, scratch: Scratch) -> Self {
        self.scratch = Some(scratch);
        self
    }

    /// A distributor that has already started.
    pub fn distributor(mut self, distributor: Process) -> Self {
        self.distributor = Some(distributor);
        self
    }

    /// The number of users instances.
    pub fn users(mut self, count: usize) -> Self {
        self.users = count;
        self
    }

    /// Further flags for each users instance.
    pub fn users_flags(mut self, flags: &[&str]) -> Self {
        self.users_flags = flags.iter().map(ToString::to_string).collect();
        self
    }

    /// Further flags for the gateway.
    pub fn gateway_flags(mut self, flags: &[&str]) -> Self {
        self.gateway_flags = flags.iter().map(ToString::to_string).collect();
        self
    }

    /// The processes prove [`SECRET`] to each other.
    pub fn secured(mut self) -> Self {
        self.variables = &[("PILCROW_SECRET", SECRET)];
        self
    }

    /// Packets are not logged: for tests with tens of thousands of them.
    pub fn without_packet_log(mut self) -> Self {
        self.variables = &[("RUST_LOG", "debug,pilcrow::net::link=info,pilcrow::net::peer=info")];
        self
    }

    /// Starts all processes, and waits until the gateway is linked to all users instances.
    pub fn start(self) -> System {
        let Self { scratch, distributor, users, users_flags, gateway_flags, variables } = self;
        let scratch = scratch.unwrap_or_else(Scratch::new);
        let distributor = distributor.unwrap_or_else(|| Program::distributor().variables(variables).start());
        let address = distributor.address();
        let start_users =
            |_| Program::users(address, &scratch).flags(&users_flags).variables(variables).start();
        let users: Vec<Process> = (0..users).map(start_users).collect();
        let gateway = Program::gateway(address).flags(&gateway_flags).variables(variables).start();
        let count = users.len();
        let system = System { gateway, users, distributor, scratch };
        system.await_instances("GET", "/users", count);
        system
    }
}
