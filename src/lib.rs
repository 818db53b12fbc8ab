//! Pilcrow: microservices over plain TCP, written to be read.
//!
//! Three processes exchange packets. A packet is one JSON object that ends with `¶`.
//!
//! ```text
//!                  HTTP                         packets
//!   curl, browser ──────► gateway :8000 ══════════════════════► users :9020 ──► SQLite
//!                            │   ▲      one link per instance      │   ▲
//!                   register │   │ list                   register │   │ list
//!                            ▼   │                                 ▼   │
//!                         ┌────────────────────────────────────────────────┐
//!                         │               distributor :9000                │
//!                         └────────────────────────────────────────────────┘
//! ```
//!
//! - The **distributor** knows which nodes live. Every other process keeps one connection to it, registers, and gets
//!   the list of all nodes whenever it changes. No request passes through it.
//! - The **gateway** translates HTTP requests into packets. It knows no service by name: the list says which instance
//!   answers which `METHOD /path`.
//! - **users** is a service: a name, routes, handlers. Several instances share the load and one database file.
//!
//! # The path of one request
//!
//! These ten files have 2,798 lines together: two evenings. Read them in this order.
//!
//! 1. `src/packet.rs`: what a packet is, and how it is written.
//! 2. `src/packet/frame.rs`: how bytes become packets again.
//! 3. `src/registry.rs`: which nodes are registered, as a value without sockets.
//! 4. `src/distributor.rs`: the registry behind a port.
//! 5. `src/routes.rs`: which instance answers which route, as a value without sockets.
//! 6. `src/net/listener.rs`: a port; one thread per connection.
//! 7. `src/net/pending.rs`: which caller waits for which reply.
//! 8. `src/net/link.rs`: the calling side; a link reconnects by itself.
//! 9. `src/mesh.rs`: lists, links and routes together; it calls the least busy instance.
//! 10. `src/service.rs`: how a service finds the handler of a request and answers.
//!
//! Beside this path are the parts that each file names in its first lines, such as [`net::outbox`] and
//! [`net::peer`]. The story goes on in front with [`http`] and [`gateway`], and behind with [`users`].
//!
//! # Layers
//!
//! A module uses only its own layer and the layers below. `tests/house` checks this.
//!
//! | layer | modules | what it is |
//! | --- | --- | --- |
//! | bin | `src/bin` | arguments, start and stop of the three processes |
//! | programs | [`gateway`], [`users`], [`distributor`] | what the processes do |
//! | kit | [`service`], [`mesh`], [`subscription`], [`process`], [`pool`], [`metrics_page`] | what a program is written with |
//! | http | [`http`] | HTTP/1.1 on a listener; it knows no packet |
//! | net | [`net`] | connections and their threads |
//! | observe | [`observe`] | metrics, access log, log writer |
//! | values | [`packet`], [`node`], [`registry`], [`routes`], [`context`], [`address`], [`byte_reader`], [`clock`], [`sync`], [`thread`] | no socket; what every layer needs |
//!
//! `docs/architecture.md` has the threads, locks and limits, `docs/protocol.md` the wire, and `docs/decisions.md` the
//! reasons. `docs/glossary.md` defines the terms.

pub mod address;
pub mod byte_reader;
pub mod clock;
pub mod context;
pub mod distributor;
pub mod gateway;
pub mod http;
pub mod mesh;
pub mod metrics_page;
pub mod net;
pub mod node;
pub mod observe;
pub mod packet;
pub mod pool;
pub mod process;
pub mod registry;
pub mod routes;
pub mod service;
pub mod subscription;
pub mod sync;
pub mod thread;
pub mod users;
