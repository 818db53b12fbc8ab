//! A network that silently loses all packets: half-open links. It needs a separate network, because the loopback never
//! loses a packet.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Http, Process, Program, SECRET, Scratch, await_instances, eventually};

/// The time limit for the detection of a dead link.
const NOTICED: Duration = Duration::from_secs(15);

/// A simulated second machine: a network namespace, and a cable to it.
struct FarSide {
    name: String,
    cable: String,
    /// The addresses of this side and of the far one.
    near: String,
    far: String,
}

fn ip(arguments: &str) -> bool {
    Command::new("ip").args(arguments.split(' ')).output().is_ok_and(|done| done.status.success())
}

impl FarSide {
    /// `None` where that is not permitted.
    fn build() -> Option<Self> {
        let number = std::process::id();
        let (name, cable) = (format!("pilcrow-{number}"), format!("pc{number}"));
        // Addresses from the range reserved for benchmarks.
        let network = format!("198.18.{}", number % 250);
        let side = Self { name, cable, near: format!("{network}.1"), far: format!("{network}.2") };
        let Self { name, cable, near, far } = &side;
        let steps = [
            format!("netns add {name}"),
            format!("link add {cable} type veth peer name far0 netns {name}"),
            format!("addr add {near}/30 dev {cable}"),
            format!("link set {cable} up"),
            format!("-n {name} addr add {far}/30 dev far0"),
            format!("-n {name} link set far0 up"),
            format!("-n {name} link set lo up"),
        ];
        if steps.iter().all(|step| ip(step)) {
            return Some(side);
        }
        crate::harness::skip("ip netns", "this user may not create a network namespace");
        None
    }

    /// From now on every packet, in both directions, goes to a machine that does not exist.
    fn cut(&self) {
        let Self { name, cable, near, far } = self;
        assert!(ip(&format!("neigh replace {far} lladdr 02:00:00:00:00:99 dev {cable} nud permanent")));
        assert!(ip(&format!(
            "-n {name} neigh replace {near} lladdr 02:00:00:00:00:99 dev far0 nud permanent"
        )));
    }

    fn repair(&self) {
        let Self { name, cable, near, far } = self;
        assert!(ip(&format!("neigh del {far} dev {cable}")));
        assert!(ip(&format!("-n {name} neigh del {near} dev far0")));
    }
}

impl Drop for FarSide {
    fn drop(&mut self) {
        ip(&format!("link del {}", self.cable));
        ip(&format!("netns del {}", self.name));
    }
}

/// Users on the far side, behind a gateway on this one.
struct RemoteSystem {
    gateway: Process,
    users: Process,
    distributor: Process,
    side: FarSide,
    _scratch: Scratch,
}

impl RemoteSystem {
    fn start() -> Option<Self> {
        let side = FarSide::build()?;
        let scratch = Scratch::new();
        let secret = [("PILCROW_SECRET", SECRET)];
        let near = format!("{}:0", side.near);
        let distributor = Program::distributor().flags(["--listen", &near]).variables(&secret).start();
        let gateway =
            Program::gateway(distributor.address()).flags(["--timeout", "1"]).variables(&secret).start();
        let far = format!("{}:0", side.far);
        let users = Program::users(distributor.address(), &scratch).flags(["--listen", &far]);
        let users = users.started_by(&["ip", "netns", "exec", &side.name]).variables(&secret).start();
        await_instances(&gateway, "GET", "/users", 1);
        assert_eq!(gateway.http().get("/users").status, 200);
        Some(Self { gateway, users, distributor, side, _scratch: scratch })
    }

    fn await_noticed(&self, cut: Instant) {
        let link = format!("link {}: lost", self.users.address());
        self.gateway.await_log(&[&link]);
        let took = cut.elapsed();
        println!("the gateway noticed after {took:.1?}");
        assert!(took < NOTICED, "{took:?}");
        // The distributor removes a registered process that is unreachable from the list.
        self.distributor.await_log(&["gone: users at"]);
        self.users.await_log(&["distributor", "trying again every 3 s"]);
        println!("all had noticed after {:.1?}", cut.elapsed());
        assert!(cut.elapsed() < NOTICED, "{:?}", cut.elapsed());
    }

    fn await_repaired(&self) {
        let repaired = Instant::now();
        self.side.repair();
        eventually("users is reachable again", || {
            (self.gateway.http().get("/users").status == 200).then_some(())
        });
        println!("reached again {:.1?} after the network was back", repaired.elapsed());
    }
}

/// Sends one request. It must end within its timeout of one second and one more. Returns the outcome.
fn ask(http: Http) -> u16 {
    let began = Instant::now();
    let status = http.get("/users").status;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    status
}

#[test]
#[ignore = "slow: waits until a silent network is noticed, twice"]
fn a_dead_link_is_noticed_and_replaced_when_the_network_works_again() {
    let Some(remote) = RemoteSystem::start() else { return };
    // No process sends requests; only the kernel probes.
    remote.side.cut();
    remote.await_noticed(Instant::now());
    remote.await_repaired();
    // A client sends requests all the time.
    remote.side.cut();
    let cut = Instant::now();
    let mut statuses = Vec::new();
    let lost = || remote.gateway.log().iter().filter(|line| line.contains(": lost")).count();
    while lost() < 2 {
        statuses.push(ask(remote.gateway.http()));
        assert!(cut.elapsed() < NOTICED, "{statuses:?}");
    }
    println!("with requests on it, noticed after {:.1?}: {statuses:?}", cut.elapsed());
    assert!(statuses.iter().all(|status| [502, 503, 504].contains(status)), "{statuses:?}");
    assert_eq!(statuses.first(), Some(&504));
    remote.await_repaired();
}
