//! A service that needs another one's data: orders, with the names of the users who made them.
//!
//! `POST /orders` asks `users` over the mesh whether the user exists. `GET /orders` asks nobody: a copy of all
//! names is kept in step by the change feed, so it answers with current names even while `users` is down.
//! Start it beside the three processes with `cargo run --example orders`.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

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
    let id = request.params()?.get("user_id").and_then(Value::as_i64);
    let id = id.ok_or_else(|| Failure::bad_request("user_id must be an integer"))?;
    // Before anybody has registered the route, 404 is the mesh's own and tells nothing about the user.
    let known = mesh.resolve("GET", "/users") != Resolved::NotFound;
    let user =
        mesh.call("GET", &format!("/users/{id}"), &json!({})).map_err(|failure| match failure.errorcode {
            404 if known => Failure::new(422, format!("no user has id {id}: order for somebody who exists")),
            _ => failure,
        })?;
    let mut shop = shop.lock().unwrap_or_else(PoisonError::into_inner);
    shop.orders.push((id, item.clone()));
    let order = json!({ "id": shop.orders.len(), "user": user["results"]["name"], "item": item });
    Ok(Reply::ok(order)?.with_status(201))
}

fn list_orders(shop: &Shared) -> Result<Reply, Failure> {
    let shop = shop.lock().unwrap_or_else(PoisonError::into_inner);
    let order = |(at, (id, item)): (usize, &(i64, String))| json!({ "id": at + 1, "user_id": id, "user": shop.names.get(id), "item": item });
    Reply::ok(shop.orders.iter().enumerate().map(order).collect::<Vec<_>>())
}

/// Keeps the names in step, for ever. When the feed has forgotten what we missed, all is read anew.
fn follow_users(mesh: &Arc<Mesh>, shop: &Shared) {
    loop {
        if let Err(failure) = copy_and_follow(mesh, shop) {
            log::info!("the copy of the users is not in step: {failure}");
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn copy_and_follow(mesh: &Arc<Mesh>, shop: &Shared) -> Result<(), Failure> {
    // The snapshot first, then every change after the state that its first page shows. A change that a later
    // page shows already comes once more, which does no harm.
    let (mut names, mut after, mut params) = (HashMap::new(), Value::Null, json!({ "limit": 500 }));
    while !params.is_null() {
        let page = mesh.call("GET", "/users", &params)?;
        let users = page["results"].as_array().into_iter().flatten();
        names
            .extend(users.filter_map(|user| Some((user["id"].as_i64()?, user["name"].as_str()?.to_owned()))));
        after = if after.is_null() { page["seq"].clone() } else { after };
        params = page["next"].as_i64().map_or(Value::Null, |next| json!({ "limit": 500, "after": next }));
    }
    shop.lock().unwrap_or_else(PoisonError::into_inner).names = names;
    let mut feed = Subscription::new(mesh, "/users/changes", Map::from_iter([("after".to_owned(), after)]));
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
