//! Log lines about bad frames.

use super::*;

fn unfinished(text: &str) -> BadFrame {
    BadFrame::unfinished(text.as_bytes(), 100_000)
}

#[test]
fn a_wrong_delimiter_is_named() {
    let named = |text: &str| unfinished(text).cause;
    for (text, delimiter) in [
        (r#"{"a":"b"}$"#, "$"),
        ("{\"a\":{}}\n", r"\n"),
        ("{\"a\":{}}\r\n", r"\n"),
        (r#"{"a":[1]};"#, ";"),
        (r#"{"a":1}|{"b":2}|"#, "|"),
        ("{\"a\":1}\n{\"b\":", r"\n"),
        (r#"{"a":"$"} §"#, r"\u{a7}"),
        ("{\"a\":1}\0", r"\u{0}"),
    ] {
        assert_eq!(named(text), Some(format!("it ends with `{delimiter}` instead of `¶`")), "{text}");
    }
    for text in ["", "{", "{}", "{} ", "{}}", "{}x", "{}$x", "{\"a\":\"$", "[]$", "null$", "{a}$", "{}$$"] {
        assert_eq!(named(text), None, "{text}");
    }
}

#[test]
fn a_string_that_swallowed_a_delimiter_is_named() {
    let cause = unfinished("{\"a\":\"b}¶{\"c\":1}¶").cause.unwrap();
    assert!(cause.contains("a string in it is not closed"), "{cause}");
}

#[test]
fn a_long_frame_without_an_end_shows_its_last_characters() {
    let long = format!("{{\"a\":\"{}\",\"b\":\"한글\n끝\"}}", "x".repeat(1000));
    let bad = unfinished(&long);
    assert!(bad.begins.starts_with(r#"{\"a\":\"xxx"#) && bad.begins.ends_with("x…"), "{}", bad.begins);
    assert_eq!(bad.ends.as_deref(), Some(r#"xxxxxxx\",\"b\":\"한글\n끝\"}"#));
    assert!(FrameError::Stalled(bad).to_string().ends_with(r#"…, ends: xxxxxxx\",\"b\":\"한글\n끝\"})"#));
    assert_eq!(unfinished("{\"a\":1").ends, None, "the beginning shows all of it");
    assert_eq!(BadFrame::of(long.as_bytes(), 10).ends, None, "its delimiter has arrived");
}

#[test]
fn the_end_of_a_frame_that_names_a_secret_stays_out() {
    for name in ["password", "Token", "SECRET", "authorization"] {
        for padding in [0, 200, 2000] {
            let text =
                format!("{{\"{}\":1,\"{name}\":\"{}HUNTER22\"}}$", "x".repeat(padding), "y".repeat(100));
            let told = FrameError::Truncated(unfinished(&text)).to_string();
            assert!(!told.contains("HUNTER22") && !told.contains("ends:"), "{told}");
            assert!(told.contains("it ends with `$` instead of `¶`"), "{told}");
        }
    }
}
