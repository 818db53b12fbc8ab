//! Addresses as values without sockets, with one spelling each.

use std::net::{IpAddr, SocketAddr};

/// One spelling per address: `::ffff:127.0.0.1` is `127.0.0.1`.
#[must_use]
pub fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// `host:port` as we dial and print it. An IPv6 host gets brackets.
#[must_use]
pub fn join_host_port(host: &str, port: u16) -> String {
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(canonical(ip), port).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}
