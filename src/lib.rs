//! Pilcrow: microservices over plain TCP, small enough to read in an evening.
//!
//! Three processes work together. All that they share is packets: one JSON object each, ended by `¶`.
//!
//! ```text
//!                  HTTP                         packets
//!   curl, browser ──────► gateway :8000 ══════════════════════► users :9020 ──► SQLite
//!                            │   ▲        a link to each           │   ▲
//!                   register │   │ list   instance        register │   │ list
//!                            ▼   │                                 ▼   │
//!                         ┌────────────────────────────────────────────────┐
//!                         │               distributor :9000                │
//!                         └────────────────────────────────────────────────┘
//! ```
//!
//! - The **distributor** knows who is alive. Every other process keeps one connection to it, registers itself,
//!   and is sent the list of all nodes whenever that changes. No request passes through it.
//! - The **gateway** speaks HTTP in front and packets behind. It knows no service by name: from the list it
//!   learns which instance answers which `METHOD /path`.
//! - **users** is a service like any that you would write: a name, routes, handlers. Several instances of it share
//!   the load, and one database file.
//!
//! # Reading order
//!
//! Roughly the way that a request takes:
//!
//! 1. [`packet`]: what crosses a connection. [`packet::frame`]: how bytes become packets again.
//! 2. [`registry`], [`node`] and [`routes`]: what there is to know, as plain values without sockets.
//! 3. [`distributor`]: the smallest process. What it adds to the registry are connections.
//! 4. [`net::listener`], [`net::peer`] and [`net::outbox`]: the answering side of a connection.
//! 5. [`net::dial`], [`net::link`] and [`net::membership`]: the calling side, which comes back by itself.
//! 6. [`mesh`]: lists, links and routes together; whoever has one calls services by `METHOD /path`.
//! 7. [`http`] and [`gateway`]: one HTTP request from its first byte to its answer.
//! 8. [`service`] and [`users`]: how a service is written, and a real one.
//! 9. [`subscription`] and [`users::feed`]: many replies to one request, and what follows from that.
//! 10. [`process`] and `src/bin`: how each process begins and ends, one screen each.
//!
//! # Modules
//!
//! | module | what it is | used by |
//! | --- | --- | --- |
//! | [`packet`] | packets and frames: reading and writing them, without sockets | whoever sends or reads |
//! | [`address`] | addresses, each with one spelling | whoever dials, registers or logs |
//! | [`node`] | what a node says when it registers, and what the list says of it | whoever registers or lists |
//! | [`net`] | listeners, links, membership: connections and their threads | all that talk |
//! | [`registry`] | who is alive: a pure value | [`distributor`] |
//! | [`routes`] | which instance answers `METHOD /path`: a pure value | [`mesh`] |
//! | [`distributor`] | the service registry | the binary `distributor` |
//! | [`mesh`] | calls services by `METHOD /path` | [`gateway`], services that call others |
//! | [`context`] | how long and how far a request has come, passed on from call to call | [`mesh`], [`service`] |
//! | [`subscription`] | a stream of replies that survives its links | [`gateway`], `examples/watch.rs` |
//! | [`http`] | HTTP on a listener; knows no packet | [`gateway`], [`metrics_page`] |
//! | [`gateway`] | HTTP in front of the mesh | the binary `gateway` |
//! | [`service`] | what a service is written with | [`users`], `examples/greetings.rs` |
//! | [`users`] | the example service, on SQLite | the binary `users` |
//! | [`observe`] | metrics, the access log, and the writer of every log line | every module above |
//! | [`metrics_page`] | the metrics over HTTP, on a port of its own | all binaries |
//! | [`pool`] | a few threads behind a bounded queue | [`service`], [`users`] |
//! | [`process`] | settings, log, signals, exit status | all binaries |
//! | [`byte_reader`] | a buffered reader of bytes | [`packet`] |
//! | [`sync`] | locks that survive a panic of their holder, permits that are given back | whoever locks or counts |
//! | [`thread`] | starts named threads | every layer that starts one |
//!
//! The wire is described in `docs/protocol.md`, the design in `docs/architecture.md`, and the reasons for it in
//! `docs/decisions.md`.

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
