//! Tests of the parent module as a value.

use std::cell::RefCell;

use proptest::prelude::*;

use super::*;

/// Routes whose handles are the names of their instances.
type Names = Routes<&'static str>;

fn set(routes: &mut Names, address: &'static str, urls: &[&str]) -> Vec<String> {
    let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
    routes.set(address, "service", &urls, &address)
}

fn table(rows: &[(&'static str, &[&str])]) -> Names {
    let mut routes = Names::default();
    for (address, urls) in rows {
        set(&mut routes, address, urls);
    }
    routes
}

/// Picks an instance while all are idle.
fn pick_idle(routes: &Names, method: &str, path: &str) -> Option<&'static str> {
    routes.pick(method, path, |_, _| Some(0))
}

#[test]
fn the_exact_path_wins_over_its_parent() {
    let routes = table(&[("a", &["GET/users", "POST/users", "POST/users/login", "GET/users/me"])]);
    assert_eq!(routes.resolve("GET", "/users"), Resolved::Route("/users", None));
    assert_eq!(routes.resolve("GET", "/users/me"), Resolved::Route("/users/me", None));
    assert_eq!(routes.resolve("POST", "/users/login"), Resolved::Route("/users/login", None));
    // `GET/users/login` does not exist, so this is a user called login.
    assert_eq!(routes.resolve("GET", "/users/login"), Resolved::Route("/users", Some("login")));
    assert_eq!(routes.resolve("GET", "/users/1"), Resolved::Route("/users", Some("1")));
    assert_eq!(routes.resolve("GET", "/users/me/1"), Resolved::Route("/users/me", Some("1")));
}

#[test]
fn a_path_parameter_is_one_segment_that_is_not_empty() {
    let routes = table(&[("a", &["GET/users", "GET/"])]);
    for unknown in ["/users/", "/users/1/2", "users", "", "/other", "/users/1/"] {
        assert_eq!(routes.resolve("GET", unknown), Resolved::NotFound, "{unknown}");
    }
    assert_eq!(routes.resolve("GET", "/"), Resolved::Route("/", None));
}

#[test]
fn another_method_of_a_known_path_gets_the_allowed_methods() {
    let routes = table(&[
        ("a", &["GET/users", "POST/users", "PATCH/users/me", "DELETE/users"]),
        ("b", &["GET/users", "PUT/goods"]),
    ]);
    let allowed = |path| match routes.resolve("BREW", path) {
        Resolved::MethodNotAllowed(methods) => methods.join(" "),
        other => panic!("{other:?}"),
    };
    assert_eq!(allowed("/users"), "DELETE GET POST");
    // The methods of the path and of its parent, each once.
    assert_eq!(allowed("/users/me"), "DELETE GET PATCH POST");
    assert_eq!(allowed("/users/1"), "DELETE GET POST");
    assert_eq!(allowed("/goods/1"), "PUT");
    assert_eq!(routes.resolve("get", "/goods"), Resolved::MethodNotAllowed(vec!["PUT".to_owned()]));
}

#[test]
fn a_route_stays_when_its_last_instance_ends() {
    let mut routes = table(&[("a", &["GET/users"])]);
    assert_eq!(routes.remove("a"), ["- GET /users"]);
    assert_eq!(routes.resolve("GET", "/users/1"), Resolved::Route("/users", Some("1")));
    assert_eq!(pick_idle(&routes, "GET", "/users"), None);
    assert!(!routes.has_instance(|_| true));
    let rows = routes.rows(|_| true);
    assert_eq!((rows.len(), rows[0].path.as_str(), rows[0].instances.len()), (1, "/users", 0));
    set(&mut routes, "b", &["GET/users"]);
    assert_eq!(pick_idle(&routes, "GET", "/users"), Some("b"));
}

#[test]
fn a_route_that_is_not_registered_has_no_instance() {
    let routes = table(&[("a", &["GET/users"])]);
    for (method, path) in [("POST", "/users"), ("GET", "/goods"), ("GET", "/users/1")] {
        assert_eq!(pick_idle(&routes, method, path), None);
    }
}

#[test]
fn the_least_busy_instance_is_picked() {
    let routes = table(&[("a", &["GET/users"]), ("b", &["GET/users"]), ("c", &["GET/users"])]);
    for (loads, picked) in [([2, 1, 2], "b"), ([0, 1, 2], "a"), ([7, 8, 3], "c")] {
        let load = |address: &str, _: &&str| Some(loads[usize::from(address.as_bytes()[0] - b'a')]);
        for _ in 0..5 {
            assert_eq!(routes.pick("GET", "/users", load), Some(picked));
        }
    }
}

#[test]
fn equally_busy_instances_take_turns() {
    let routes = table(&[("a", &["GET/users"]), ("b", &["GET/users"]), ("c", &["GET/users"])]);
    let picked: Vec<&str> = (0..7).filter_map(|_| pick_idle(&routes, "GET", "/users")).collect();
    assert_eq!(picked, ["a", "b", "c", "a", "b", "c", "a"]);
    let all_but_a = |address: &str, _: &&str| (address != "a").then_some(3);
    let picked: Vec<&str> = (0..6).filter_map(|_| routes.pick("GET", "/users", all_but_a)).collect();
    assert!(picked.contains(&"b") && picked.contains(&"c") && !picked.contains(&"a"), "{picked:?}");
}

#[test]
fn each_route_has_turns_of_its_own() {
    let routes = table(&[("a", &["GET/users", "POST/users"]), ("b", &["GET/users", "POST/users"])]);
    for _ in 0..3 {
        assert_eq!(pick_idle(&routes, "GET", "/users"), Some("a"));
        assert_eq!(pick_idle(&routes, "POST", "/users"), Some("a"));
        assert_eq!(pick_idle(&routes, "GET", "/users"), Some("b"));
        assert_eq!(pick_idle(&routes, "POST", "/users"), Some("b"));
    }
}

#[test]
fn an_instance_that_cannot_take_a_request_gets_none() {
    let routes = table(&[("a", &["GET/users"]), ("b", &["GET/users"])]);
    let only_b = |address: &str, _: &&str| (address == "b").then_some(100);
    for _ in 0..4 {
        assert_eq!(routes.pick("GET", "/users", only_b), Some("b"));
    }
    assert_eq!(routes.pick("GET", "/users", |_, _| None::<usize>), None);
    assert!(routes.has_instance(|handle| *handle == "b") && !routes.has_instance(|handle| *handle == "c"));
}

#[test]
fn the_changes_name_added_and_removed_routes() {
    let mut routes = Names::default();
    assert_eq!(set(&mut routes, "a", &["GET/users", "POST/users"]), ["+ GET /users", "+ POST /users"]);
    assert_eq!(set(&mut routes, "a", &["GET/users", "POST/users"]), [""; 0], "no news");
    assert_eq!(set(&mut routes, "b", &["GET/users", "GET/users"]), ["+ GET /users"]);
    assert_eq!(set(&mut routes, "a", &["GET/users", "GET/goods"]), ["- POST /users", "+ GET /goods"]);
    assert_eq!(routes.remove("b"), ["- GET /users"]);
    assert_eq!(routes.remove("b"), [""; 0]);
    assert_eq!(routes.remove("never seen"), [""; 0]);
}

#[test]
fn an_instance_that_registers_again_has_its_new_handle() {
    let mut routes = Routes::default();
    let urls = ["GET/users".to_owned()];
    routes.set("a", "users", &urls, &1);
    routes.set("a", "people", &urls, &2);
    assert_eq!(routes.pick("GET", "/users", |_, _| Some(0)), Some(2));
    let rows = routes.rows(|_| true);
    assert_eq!((rows[0].service.as_str(), rows[0].instances.len()), ("people", 1));
}

#[test]
fn an_url_that_no_request_can_ask_for_is_skipped() {
    let mut routes = Names::default();
    assert_eq!(
        set(&mut routes, "a", &["/users", "GETusers", "", "/", "GET", "GET/", "GET/¶"]),
        ["+ GET /", "+ GET /¶"]
    );
    assert_eq!(routes.rows(|_| true).len(), 2);
}

#[test]
fn the_rows_are_sorted_and_show_the_instances_that_take_requests() {
    let routes = table(&[("b", &["POST/users", "GET/users", "GET/goods"]), ("a", &["GET/users"])]);
    let rows: Vec<String> = routes
        .rows(|handle| *handle != "a")
        .iter()
        .map(|row| format!("{} {} {} {}", row.method, row.path, row.service, row.instances.join(",")))
        .collect();
    assert_eq!(rows, ["GET /goods service b", "GET /users service b", "POST /users service b"]);
}

#[test]
fn the_rows_of_a_service_whose_instances_differ_show_the_conflict() {
    let mut routes = Names::default();
    routes.set("a", "users", &["GET/users".to_owned(), "GET/users/changes".to_owned()], &"a");
    routes.set("b", "users", &["GET/users".to_owned()], &"b");
    routes.set("c", "goods", &["GET/goods".to_owned()], &"c");
    let conflicts = |routes: &Names, dead: &str| -> Vec<Option<String>> {
        routes.rows(|handle| *handle != dead).into_iter().map(|row| row.conflict).collect()
    };
    let told = "users at a serves GET /users/changes, users at b does not; this is normal during an upgrade";
    assert_eq!(conflicts(&routes, ""), [None, Some(told.to_owned()), Some(told.to_owned())]);
    assert_eq!(conflicts(&routes, "b"), [None, None, None], "only one of them is alive");
    assert_eq!(conflicts(&routes, "a"), [None, None, None]);
    let row = serde_json::to_value(&routes.rows(|_| true)[0]).unwrap();
    assert!(row.get("conflict").is_none(), "{row}");
    routes.set("b", "users", &["GET/users".to_owned(), "GET/users/changes".to_owned()], &"b");
    assert_eq!(conflicts(&routes, ""), [None, None, None]);
}

#[test]
fn a_full_table_drops_the_routes_without_an_instance() {
    let urls = |service: &str, count: usize| -> Vec<String> {
        (0..count).map(|number| format!("GET/{service}{number}")).collect()
    };
    let mut routes = Routes::default();
    routes.set("a", "one", &urls("one", MAX_ROUTES_IN_TABLE - 1), &1);
    let changes = routes.set("b", "two", &urls("two", 3), &2);
    assert_eq!(changes[0], "+ GET /two0");
    assert!(
        changes[1].contains("GET /two1 skipped") && changes[2].contains("GET /two2 skipped"),
        "{changes:?}"
    );
    assert_eq!(routes.rows(|_| true).len(), MAX_ROUTES_IN_TABLE);
    // A known route needs no room.
    assert_eq!(routes.set("c", "one", &urls("one", 1), &3), ["+ GET /one0"]);
    routes.remove("a");
    assert_eq!(routes.set("b", "two", &urls("two", 3), &2), ["+ GET /two1", "+ GET /two2"]);
    assert_eq!(routes.rows(|_| true).len(), 4, "the three of b, and the one of c");
    assert_eq!(routes.resolve("GET", "/one1"), Resolved::NotFound);
}

proptest! {
    /// Requests do not end here, so an instance that gets one stays busier.
    #[test]
    fn loads_never_differ_by_more_than_one_while_nothing_ends(count in 1..6_usize, requests in 1..60_usize) {
        let addresses = ["a", "b", "c", "d", "e", "f"];
        let mut routes = Names::default();
        for address in &addresses[..count] {
            set(&mut routes, address, &["GET/users"]);
        }
        let loads = RefCell::new(HashMap::<String, usize>::new());
        for _ in 0..requests {
            let load = |address: &str, _: &&str| Some(loads.borrow().get(address).copied().unwrap_or_default());
            let picked = routes.pick("GET", "/users", load).unwrap();
            *loads.borrow_mut().entry(picked.to_owned()).or_default() += 1;
        }
        let loads = loads.into_inner();
        let of = |address: &&str| loads.get(*address).copied().unwrap_or_default();
        let (least, most) = (addresses[..count].iter().map(of).min(), addresses[..count].iter().map(of).max());
        prop_assert!(most.unwrap() - least.unwrap() <= 1, "{:?}", loads);
    }
}
