//! The invariants of `docs/architecture.md` that the source can show.

use std::fs;
use std::path::{Path, PathBuf};

/// The lines of these files and folders, without tests and comments, that contain one of `words`.
fn lines_with(places: &[&str], words: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for file in places.iter().flat_map(|place| rust_files(&root.join(place))) {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let hits = code.filter(|line| words.iter().any(|word| line.contains(word)));
        found.extend(
            hits.map(|line| format!("{}: {}", file.strip_prefix(root).unwrap().display(), line.trim())),
        );
    }
    found
}

fn rust_files(place: &Path) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place.to_owned()];
    }
    let entries = fs::read_dir(place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
    let mut files: Vec<PathBuf> = entries.flat_map(|entry| rust_files(&entry.unwrap().path())).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "rs") && !file.ends_with("tests.rs"));
    files
}

#[test]
fn the_search_finds_what_is_there() {
    assert!(!lines_with(&["src"], &["TcpStream"]).is_empty());
    assert!(lines_with(&["src/net"], &["TcpStream::connect"]).iter().any(|line| line.contains("dial.rs")));
}

#[test]
fn packets_know_no_socket() {
    assert_eq!(lines_with(&["src/packet.rs", "src/packet/frame.rs"], &["std::net", "Tcp"]), [""; 0]);
}

#[test]
fn registry_routes_and_nodes_know_no_socket_and_no_thread() {
    assert_eq!(lines_with(&["src/registry.rs", "src/routes.rs", "src/node.rs"], &["Tcp", "thread"]), [""; 0]);
}

#[test]
fn connections_are_opened_and_accepted_in_two_files_only() {
    let words = ["TcpStream::connect", "TcpListener::bind", "Socket::new", ".accept()"];
    let elsewhere = lines_with(&["src"], &words);
    let elsewhere = elsewhere.iter().filter(|line| {
        // A listener that closes wakes its own `accept` by a connection. That connection is not a link.
        !line.starts_with("src/net/dial.rs") && !line.starts_with("src/net/listener.rs")
    });
    assert_eq!(elsewhere.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn the_net_layer_knows_no_uri_but_distributes() {
    let uris = lines_with(&["src/net.rs", "src/net"], &["\"/"]);
    assert!(!uris.is_empty());
    assert!(uris.iter().all(|line| line.contains("\"/distributes\"")), "{uris:#?}");
}

#[test]
fn the_distributor_calls_nobody() {
    assert_eq!(lines_with(&["src/distributor.rs"], &["net::link", "net::dial", "mesh"]), [""; 0]);
}

#[test]
fn the_gateway_knows_no_service_of_ours_by_name() {
    let places = ["src/gateway.rs", "src/gateway", "src/mesh.rs", "src/routes.rs"];
    assert_eq!(lines_with(&places, &["\"/users", "\"users", "GET/users"]), [""; 0]);
}

#[test]
fn http_knows_neither_packets_nor_the_gateway() {
    let words =
        ["crate::packet", "crate::gateway", "crate::mesh", "net::link", "subscription", "crate::node"];
    assert_eq!(lines_with(&["src/http.rs", "src/http"], &words), [""; 0]);
    assert_eq!(lines_with(&["src/metrics_page.rs"], &["gateway", "packet"]), [""; 0]);
}

#[test]
fn every_queue_has_a_limit() {
    assert_eq!(lines_with(&["src"], &["unbounded", "mpsc::channel"]), [""; 0]);
}

#[test]
fn no_async_runtime_is_among_the_dependencies() {
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    for runtime in ["tokio", "async-std", "smol", "mio", "futures-executor"] {
        assert!(!lock.contains(&format!("name = \"{runtime}\"\n")), "{runtime} is in Cargo.lock");
    }
}

/// Words in backquotes that look like the name of a story.
fn stories_named_in(text: &str) -> Vec<&str> {
    let is_name = |word: &&str| {
        word.matches('_').count() >= 3
            && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    text.split('`').skip(1).step_by(2).filter(is_name).collect()
}

#[test]
fn each_guarantee_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let promises = fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    let named = stories_named_in(&promises);
    assert!(named.len() > 50, "{named:?}");
    let functions: Vec<String> = lines_with(&["tests/stories"], &["fn "]);
    let missing: Vec<&&str> = named
        .iter()
        .filter(|name| !functions.iter().any(|line| line.contains(&format!("fn {name}("))))
        .collect();
    assert_eq!(missing, Vec::<&&str>::new());
}
