use super::*;

fn head(status: u16, length: usize, headers: &[(&str, &str)]) -> String {
    let mut bytes = Vec::new();
    let kind = HeadKind { status, minor_version: 1, content_type: "application/json" };
    append_head(&mut bytes, kind, length, headers.iter().copied()).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// The lines of a head without its `Date`. All lines but the first are sorted.
fn lines(head: &str) -> Vec<&str> {
    let (status, rest) = head.split_once("\r\n").unwrap();
    let mut lines: Vec<&str> = rest.split("\r\n").filter(|line| !line.starts_with("Date: ")).collect();
    lines.sort_unstable();
    lines.insert(0, status);
    lines
}

/// The same head, written by tiny_http alone.
fn by_tiny_http(status: u16, length: usize, headers: &[(&str, &str)]) -> String {
    let headers = headers.iter().chain(&[("Content-Type", "application/json")]);
    let headers = headers.map(|(name, value)| Header::from_bytes(*name, *value).unwrap()).collect();
    let response = Response::new(StatusCode(status), headers, io::empty(), Some(length), None);
    let mut bytes = Vec::new();
    response.raw_print(&mut bytes, HTTPVersion(1, 1), &[], true, None).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_head_has_the_lines_that_tiny_http_writes() {
    for status in [200, 201, 204, 304, 400, 404, 503, 599] {
        for headers in [&[][..], &[("ETag", "\"7\""), ("X-Request-Id", "a-1")][..]] {
            for _ in 0..2 {
                let (ours, theirs) = (head(status, 1234, headers), by_tiny_http(status, 1234, headers));
                assert_eq!(lines(&ours), lines(&theirs), "{status}");
            }
        }
    }
}

#[test]
fn every_head_has_one_date_and_ends_with_one_empty_line() {
    for length in [0, 7, 1_000_000] {
        let head = head(200, length, &[("X-Request-Id", "a-1")]);
        assert_eq!(head.matches("\r\nDate: ").count(), 1, "{head}");
        assert!(head.ends_with("\r\nX-Request-Id: a-1\r\n\r\n"), "{head}");
        assert_eq!(head.matches("\r\n\r\n").count(), 1, "{head}");
    }
}

#[test]
fn a_header_value_that_could_end_its_line_early_is_left_out() {
    for value in ["a\r\nB: c", "a\nB: c", "ü", "a\0b"] {
        let head = head(200, 0, &[("X", value), ("Y", "kept")]);
        assert!(
            !head.contains("X: ") && !head.contains("B: c") && head.contains("\r\nY: kept\r\n"),
            "{head}"
        );
    }
}

#[test]
fn heads_are_written_also_when_there_are_more_kinds_than_are_kept() {
    for status in 200..600 {
        assert!(head(status, 0, &[]).starts_with(&format!("HTTP/1.1 {status} ")));
    }
    assert!(read(&KEPT_HEADS).len() <= MAX_KINDS);
}
