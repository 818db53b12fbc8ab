//! Services that call and follow each other directly, without gateway or distributor between them.
//!
//! | file | tests |
//! | --- | --- |
//! | [`calls`] | calls from service to service: the fields that travel with them, their failures, rings |
//! | [`origin`] | the HTTP client's data that a service gets |
//! | [`streams`] | a user-written service that streams |
//! | [`examples`] | the programs in `examples/` |

mod calls;
mod examples;
mod origin;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use pilcrow::mesh::Mesh;
use pilcrow::net::link::LinkLimits;
use pilcrow::net::listener::Listener;
use pilcrow::net::membership::Membership;
use pilcrow::node::Node;
use pilcrow::packet::DEFAULT_MAX_FRAME_BYTES;
use pilcrow::process::{Cluster, Common, Join, Switch};
use pilcrow::service::{Running, Service};

use crate::harness::{Process, eventually};

/// Starts a service in this process.
pub fn serve(service: Service, distributor: &Process) -> Running {
    let listen = "127.0.0.1:0".to_owned();
    let common = Common {
        listen,
        max_connections: 100,
        max_frame: DEFAULT_MAX_FRAME_BYTES,
        drain: 10,
        cluster: Cluster::default(),
        metrics_listen: None,
        access_log: Switch::Off,
    };
    let join = Join { distributor: vec![distributor.address().to_string()], advertise: None };
    service.start(common.bind().unwrap(), &common, &join).unwrap()
}

/// A service that answers each `GET path` with the reply to `GET next`.
pub fn relay_to(
    distributor: &Process,
    name: &'static str,
    path: &'static str,
    next: &'static str,
) -> Running {
    calls::relay(distributor, name, path, next, Duration::ZERO)
}

/// A mesh of this process. It is a member until the membership is dropped.
fn join(distributor: &Process) -> (Arc<Mesh>, Membership) {
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let node = Node::ours("story", listener.address().port(), Vec::new(), "story");
    Mesh::join(&[distributor.address().to_string()], node, LinkLimits::default(), None).unwrap()
}

/// Waits until this many instances of a route accept calls of this mesh.
fn await_route(mesh: &Mesh, method: &str, path: &str, count: usize) {
    eventually(&format!("{count} instances of {method} {path} are linked"), || {
        let rows = mesh.routes();
        let row = rows.iter().find(|row| row.method == method && row.path == path)?;
        (row.instances.len() == count).then_some(())
    });
}
