use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

#[test]
fn a_target_is_a_path_and_a_query() {
    for (target, path, query, segment) in [
        ("/", "/", "", ""),
        ("/users/1", "/users/1", "", "1"),
        ("/users?", "/users", "", "users"),
        ("/users/1?a=b?c/d", "/users/1", "a=b?c/d", "1"),
        ("/a%20b/%C2%B6", "/a b/¶", "", "¶"),
        ("/users/a%2Fb", "/users/a%2Fb", "", "a/b"),
        ("/users/a%2fb", "/users/a%2Fb", "", "a/b"),
        ("/users/%00", "/users/\0", "", "\0"),
        ("/한글", "/한글", "", "한글"),
        ("http://host/users", "/users", "", "users"),
        ("http://host:1/users?a=http://b", "/users", "a=http://b", "users"),
        ("http://host", "/", "", ""),
        ("http://host?a=1", "/", "a=1", ""),
    ] {
        let parsed = Target::parse(target).unwrap();
        assert_eq!((parsed.path.as_ref(), parsed.query), (path, query), "{target}");
        assert_eq!(parsed.last_segment().unwrap(), segment, "{target}");
    }
    for target in
        ["", "*", "users", "?", "host:443", "ftp://host/", "/%", "/%2", "/%zz", "/%ff", "/?%", "/a?b=%C3"]
    {
        assert_eq!(Target::parse(target).unwrap_err().status, 400, "{target}");
    }
}

/// Text in valid and in invalid forms, as clients may send it.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[a-z&=%+;?/{}\"\\[\\]:, 0-9¶한\\\\]{0,40}"]
}

fn coded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

proptest! {
    #[test]
    fn no_target_panics_and_a_good_one_is_a_path(target in text(), slash in any::<bool>()) {
        let target = if slash { format!("/{target}") } else { target };
        match Target::parse(&target) {
            Ok(parsed) => {
                prop_assert!(parsed.path.starts_with('/'));
                prop_assert!(parsed.last_segment().is_ok());
            }
            Err(refused) => prop_assert_eq!(refused.status, 400),
        }
    }

    #[test]
    fn segments_come_out_as_they_were_coded(segments in vec(text(), 1..5)) {
        let target = format!("/{}", segments.iter().map(|segment| coded(segment)).collect::<Vec<_>>().join("/"));
        let parsed = Target::parse(&target).unwrap();
        prop_assert_eq!(parsed.path.matches('/').count(), segments.len());
        let last = parsed.last_segment().unwrap();
        prop_assert_eq!(last.as_ref(), segments.last().unwrap());
    }
}
