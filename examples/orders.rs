//! A service that needs the data of another one: orders, with the names of the users who placed them.
//!
//! `POST /orders` asks `users` over the mesh whether the user exists. `GET /orders` calls no other service. The change
//! feed keeps a copy of all names up to date, so it answers even while `users` is down.
//!
//! Start it next to the three processes with `cargo run --example orders`. Then run `curl 127.0.0.1:8000/orders -d
//! user_id=1 -d item=tea`.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pilcrow::context::Context;
use pilcrow::mesh::Mesh;
use pilcrow::net::link::LinkLimits;
use pilcrow::routes::Resolved;
use pilcrow::service::{Failure, Reply, Request, Service};
use pilcrow::subscription::Subscription;
use serde_json::{Map, Value, json};

#[derive(Default)]
struct Shop {
    orders: Vec<(i64, String)>,
    names: HashMap<i64, String>,
}

type Shared = Arc<Mutex<Shop>>;

fn main() -> ExitCode {
    let (mesh, shop) = (Mesh::new(LinkLimits::default()), Shared::default());
    let (calling, following) = (mesh.clone(), mesh.clone());
    let (taking, listing, keeping) = (shop.clone(), shop.clone(), shop);
    thread::spawn(move || follow_users(&following, &keeping));
    Service::new("orders", 9030)
        .mesh(&mesh)
        .route_slow("POST", "/orders", move |request| take_order(request, &calling, &taking))
        .route("GET", "/orders", move |_| list_orders(&listing))
        .run()
}

fn take_order(request: &Request, mesh: &Mesh, shop: &Shared) -> Result<Reply, Failure> {
    let item = request.text("item")?.to_owned();
    let id = user_id(request)?;
    // Until an instance has registered the route, a 404 comes from the mesh and says nothing about the user.
    let is_registered = mesh.resolve("GET", "/users") != Resolved::NotFound;
    let user =
        mesh.call(request.context(), "GET", &format!("/users/{id}"), &json!({})).map_err(|failure| {
            match failure.errorcode {
                404 if is_registered => {
                    Failure::new(422, format!("no user has id {id}: order for a user who exists"))
                }
                _ => failure,
            }
        })?;
    let mut shop = shop.lock().unwrap_or_else(PoisonError::into_inner);
    shop.orders.push((id, item.clone()));
    let order = json!({ "id": shop.orders.len(), "user": user["results"]["name"], "item": item });
    Ok(Reply::ok(order)?.with_status(201))
}

/// The id of the user who orders. It is a number, or the text of a number, since a form can send only text.
fn user_id(request: &Request) -> Result<i64, Failure> {
    let id = match request.params()?.get("user_id") {
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_i64(),
        None => None,
    };
    id.ok_or_else(|| Failure::bad_request("user_id must be an integer"))
}

fn list_orders(shop: &Shared) -> Result<Reply, Failure> {
    let shop = shop.lock().unwrap_or_else(PoisonError::into_inner);
    let order = |(at, (id, item)): (usize, &(i64, String))| json!({ "id": at + 1, "user_id": id, "user": shop.names.get(id), "item": item });
    Reply::ok(shop.orders.iter().enumerate().map(order).collect::<Vec<_>>())
}

/// Keeps the names up to date, for ever. If the feed has deleted the changes that we missed, it reads all names again.
fn follow_users(mesh: &Arc<Mesh>, shop: &Shared) {
    loop {
        if let Err(failure) = copy_and_follow(mesh, shop) {
            log::info!("the copy of the users is not up to date: {failure}");
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn copy_and_follow(mesh: &Arc<Mesh>, shop: &Shared) -> Result<(), Failure> {
    // First read the snapshot, then every change after the state of its first page. A later page may already contain a
    // change that the feed repeats, which is harmless.
    let (mut names, mut after, mut params) = (HashMap::new(), Value::Null, json!({ "limit": 500 }));
    while !params.is_null() {
        let page = mesh.call(&Context::default(), "GET", "/users", &params)?;
        let users = page["results"].as_array().into_iter().flatten();
        names
            .extend(users.filter_map(|user| Some((user["id"].as_i64()?, user["name"].as_str()?.to_owned()))));
        after = if after.is_null() { page["seq"].clone() } else { after };
        params = page["next"].as_i64().map_or(Value::Null, |next| json!({ "limit": 500, "after": next }));
    }
    shop.lock().unwrap_or_else(PoisonError::into_inner).names = names;
    let mut feed = Subscription::new(
        mesh,
        &Context::default(),
        "/users/changes",
        Map::from_iter([("after".to_owned(), after)]),
    );
    loop {
        let reply = feed.next(Instant::now() + Duration::from_secs(60))?;
        let change = reply.as_ref().and_then(|reply| serde_json::from_str::<Value>(reply.results()?).ok());
        let Some(change) = change else { continue };
        let id = change["user_id"].as_i64().unwrap_or_default();
        let mut shop = shop.lock().unwrap_or_else(PoisonError::into_inner);
        match change["user"]["name"].as_str() {
            Some(name) => shop.names.insert(id, name.to_owned()),
            None => shop.names.remove(&id),
        };
    }
}
