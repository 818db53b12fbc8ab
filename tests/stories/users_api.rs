//! The users service through the gateway: every row of its table.

use serde_json::json;

use crate::harness::System;

#[test]
fn a_user_is_created_read_changed_and_deleted() {
    let system = System::start();
    let http = system.http();
    let created = http.post("/users", &json!({ "email": "kim@example.com", "name": "Kim" }));
    assert_eq!(created.status, 201);
    let user = created.results();
    assert_eq!(
        (&user["id"], &user["email"], &user["name"]),
        (&json!(1), &json!("kim@example.com"), &json!("Kim"))
    );
    assert_eq!(http.get("/users/1").results(), user);
    assert_eq!(http.get("/users?id=1").results(), user);
    let changed = http.patch("/users/1", &json!({ "name": "Lee" }));
    assert_eq!((changed.status, &changed.results()["name"]), (200, &json!("Lee")));
    assert_eq!(http.get("/users/1").results()["name"], "Lee");
    assert_eq!(http.delete("/users/1").status, 200);
    assert_eq!(http.get("/users/1").status, 404);
}
