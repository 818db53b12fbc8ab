//! How a reply differs from the recorded one.

use std::collections::BTreeSet;

use serde_json::Value;

/// How many characters of a value are shown.
const MAX_SHOWN_CHARS: usize = 80;

/// Appends one sentence for each part that differs. `path` names the part; at the top it is empty. Fields whose name is
/// among `ignored` may differ.
pub fn find_differences(
    path: &str,
    recorded: &Value,
    now: &Value,
    ignored: &[String],
    found: &mut Vec<String>,
) {
    match (recorded, now) {
        (Value::Object(before), Value::Object(after)) => {
            let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for name in names.into_iter().filter(|name| !ignored.contains(name)) {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match (before.get(name), after.get(name)) {
                    (Some(before), Some(after)) => find_differences(&path, before, after, ignored, found),
                    (before, after) => found.push(sentence(&path, before, after)),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            for at in 0..before.len().max(after.len()) {
                let path = format!("{path}[{at}]");
                match (before.get(at), after.get(at)) {
                    (Some(before), Some(after)) => find_differences(&path, before, after, ignored, found),
                    (before, after) => found.push(sentence(&path, before, after)),
                }
            }
        }
        _ if recorded == now => {}
        _ => found.push(sentence(path, Some(recorded), Some(now))),
    }
}

fn sentence(path: &str, recorded: Option<&Value>, now: Option<&Value>) -> String {
    format!("{path}: recorded {}, now {}", shown(recorded), shown(now))
}

fn shown(value: Option<&Value>) -> String {
    let Some(value) = value else { return "nothing".to_owned() };
    let text = value.to_string();
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn differences(recorded: &Value, now: &Value) -> Vec<String> {
        let mut found = Vec::new();
        find_differences("", recorded, now, &["updated_at".to_owned()], &mut found);
        found
    }

    #[test]
    fn each_part_that_differs_has_a_sentence() {
        let recorded = json!({ "key": 1, "results": [{ "id": 1, "name": "Kim" }, 2], "seq": 3 });
        let now = json!({ "key": 1, "results": [{ "id": 1, "name": "Lee" }], "etag": "4" });
        let expected = [
            r#"etag: recorded nothing, now "4""#,
            r#"results[0].name: recorded "Kim", now "Lee""#,
            "results[1]: recorded 2, now nothing",
            "seq: recorded 3, now nothing",
        ];
        assert_eq!(differences(&recorded, &now), expected);
    }

    #[test]
    fn an_ignored_field_may_differ_anywhere() {
        let at = |time| json!({ "results": [{ "updated_at": time }], "updated_at": time });
        assert_eq!(differences(&at(1), &at(2)), [""; 0]);
        assert_eq!(differences(&at(1), &json!({ "results": [{}] })), [""; 0]);
    }
}
