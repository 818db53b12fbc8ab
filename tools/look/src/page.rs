//! The files of the page. They are part of the program, so the page needs no installation and no other host.

use pilcrow::http::HttpAnswer;

/// What the page may load: only its own files. No script or style within the HTML is carried out.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// The files by path, each with its type and its text.
const FILES: &[(&str, &str, &str)] = &[
    ("/", HTML, include_str!("../page/index.html")),
    ("/changes.js", JAVASCRIPT, include_str!("../page/changes.js")),
    ("/dom.js", JAVASCRIPT, include_str!("../page/dom.js")),
    ("/explain.js", JAVASCRIPT, include_str!("../page/explain.js")),
    ("/health.js", JAVASCRIPT, include_str!("../page/health.js")),
    ("/icon.svg", SVG, include_str!("../page/icon.svg")),
    ("/journey.js", JAVASCRIPT, include_str!("../page/journey.js")),
    ("/layout.js", JAVASCRIPT, include_str!("../page/layout.js")),
    ("/live.js", JAVASCRIPT, include_str!("../page/live.js")),
    ("/main.js", JAVASCRIPT, include_str!("../page/main.js")),
    ("/map.js", JAVASCRIPT, include_str!("../page/map.js")),
    ("/now.js", JAVASCRIPT, include_str!("../page/now.js")),
    ("/requests.js", JAVASCRIPT, include_str!("../page/requests.js")),
    ("/style.css", CSS, include_str!("../page/style.css")),
    ("/switches.js", JAVASCRIPT, include_str!("../page/switches.js")),
    ("/tabs.js", JAVASCRIPT, include_str!("../page/tabs.js")),
    ("/text.js", JAVASCRIPT, include_str!("../page/text.js")),
];

/// The file at this path.
pub fn file(path: &str) -> Option<HttpAnswer> {
    let (_, kind, text) = FILES.iter().find(|(known, _, _)| *known == path)?;
    Some(with_policy(HttpAnswer::text(kind, (*text).to_owned())))
}

/// The same answer with the headers that limit what a browser does with it.
pub fn with_policy(answer: HttpAnswer) -> HttpAnswer {
    answer
        .with_header("Content-Security-Policy", POLICY)
        .with_header("X-Content-Type-Options", "nosniff")
        .with_header("Referrer-Policy", "no-referrer")
        .with_header("Cross-Origin-Resource-Policy", "same-origin")
        .with_header("Cache-Control", "no-store")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text of clients and services must stay text.
    #[test]
    fn no_script_of_the_page_turns_text_into_html_or_code() {
        const FORBIDDEN: [&str; 7] = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "DOMParser",
            "eval(",
            "Function(",
        ];
        for (path, _, text) in FILES {
            for word in FORBIDDEN {
                assert!(!text.contains(word), "{path} has {word}");
            }
        }
    }

    #[test]
    fn every_file_of_the_page_is_served() {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/page")).unwrap();
        let mut found: Vec<String> =
            folder.map(|entry| format!("/{}", entry.unwrap().file_name().display())).collect();
        found.sort();
        let mut served: Vec<&str> = FILES.iter().map(|(path, _, _)| *path).collect();
        served[0] = "/index.html";
        served.sort_unstable();
        assert_eq!(served, found);
    }
}
