//! Pilcrow: microservices over plain TCP.
pub mod context;
pub mod distributor;
pub mod gateway;
pub mod mesh;
pub mod net;
pub mod node;
pub mod packet;
pub mod pool;
pub mod process;
pub mod registry;
pub mod routes;
pub mod service;
pub mod subscription;
pub mod sync;
pub mod users;
