//! Secrets that no log may contain: every password, token and cluster secret that any story has used.
//!
//! The clients of this harness learn the secrets from the bytes that they send and receive. Processes learn them from
//! their settings at the start. Whenever a process of any story ends, its whole log is searched for all secrets. So the
//! whole run of the stories is one test that no secret is logged.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Mutex;

use serde_json::Value;

static KNOWN: Mutex<Option<HashSet<String>>> = Mutex::new(None);

/// A shorter text, or one with fewer different characters, may appear in a log for another reason.
const LEAST_CHARS: usize = 8;
const LEAST_DIFFERENT: usize = 5;

/// Remembers a secret.
pub fn learn(secret: &str) {
    let different: HashSet<char> = secret.chars().collect();
    if secret.chars().count() < LEAST_CHARS || different.len() < LEAST_DIFFERENT {
        return;
    }
    let mut known = KNOWN.lock().unwrap();
    let known = known.get_or_insert_default();
    // The plain form and the JSON form.
    known.insert(secret.to_owned());
    known.insert(Value::from(secret).to_string().trim_matches('"').to_owned());
}

/// Remembers the secrets in the bytes of an HTTP request.
pub fn learn_from_request(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    for line in head.lines() {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("authorization")
        {
            learn_authorization(value);
        }
    }
    if body.contains("password") {
        match serde_json::from_str::<Value>(body) {
            Ok(body) => learn_password(&body["password"]),
            Err(_) => form_urlencoded::parse(body.as_bytes())
                .filter(|(name, _)| name == "password")
                .for_each(|(_, value)| learn(&value)),
        }
    }
}

/// Remembers the secrets in a sent packet.
pub fn learn_from_packet(packet: &Value) {
    learn_password(&packet["params"]["password"]);
    if let Some(authorization) = packet["authorization"].as_str() {
        learn_authorization(authorization);
    }
}

/// Remembers the token in a reply.
pub fn learn_from_reply(json: &[u8]) {
    let has_token = json.windows(7).any(|seven| seven == b"\"token\"");
    if let Some(token) = has_token.then(|| serde_json::from_slice::<Value>(json).ok()).flatten() {
        learn(token["results"]["token"].as_str().unwrap_or_default());
    }
}

/// Remembers the cluster secret among a process's settings.
pub fn learn_from_settings(arguments: &[String], variables: &[(String, String)]) {
    for (name, value) in variables {
        if name == "PILCROW_SECRET" {
            learn(value.trim());
        }
        if name == "PILCROW_SECRET_FILE" {
            learn_file(Path::new(value));
        }
    }
    for pair in arguments.windows(2) {
        if pair[0] == "--secret-file" {
            learn_file(Path::new(&pair[1]));
        }
    }
}

/// Fails if this log contains a secret.
///
/// # Panics
/// If so, with the lines.
pub fn assert_no_secret_in(whose: &str, log: &[String]) {
    let text = log.join("\n");
    let leaked: Vec<String> = {
        let known = KNOWN.lock().unwrap();
        known.iter().flatten().filter(|secret| text.contains(secret.as_str())).cloned().collect()
    };
    let lines =
        |secret: &String| log.iter().filter(|line| line.contains(secret)).cloned().collect::<Vec<_>>();
    let lines: Vec<_> = leaked.iter().flat_map(lines).collect();
    assert!(leaked.is_empty(), "the log of {whose} contains the secrets {leaked:?}: {lines:#?}");
}

fn learn_password(value: &Value) {
    learn(value.as_str().unwrap_or_default());
}

fn learn_authorization(value: &str) {
    learn(value.trim().rsplit(' ').next().unwrap_or_default());
}

fn learn_file(path: &Path) {
    learn(std::fs::read_to_string(path).unwrap_or_default().trim());
}
