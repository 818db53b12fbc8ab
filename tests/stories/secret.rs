//! The cluster secret: who may join, and what a process does without one.
//!
//! | file | what it shows |
//! | --- | --- |
//! | [`switch`] | the setting: where it comes from, what is refused, and what it permits |
//! | [`nodes`] | nodes that have another secret, or none, or meet a false distributor |
//! | [`strangers`] | whoever connects and does not know the secret |

mod nodes;
mod strangers;
mod switch;

use serde_json::json;

use crate::harness::System;

#[test]
fn with_the_same_secret_everywhere_the_walk_is_as_without() {
    let system = System::secured(2);
    let made = system.create_user("kim@example.com", "Kim");
    let read = system.http().get(&format!("/users/{}", made["id"]));
    assert_eq!((read.status, &read.results()["name"]), (200, &json!("Kim")));
    assert_eq!(system.http().get("/goods").status, 404);
}
