//! Packets as text, and whether one is what we expected.

use serde_json::Value;

/// The end of every packet.
pub const END: &[u8] = "¶".as_bytes();

/// The fields that come first, in the order of the documents.
const FIELDS: [&str; 8] =
    ["uri", "method", "key", "errorcode", "errormessage", "status", "params", "results"];

/// The packet as it crosses the wire: JSON without a raw `¶`, then `¶`.
pub fn text(packet: &Value) -> String {
    json(packet).replace('¶', "\\u00b6") + "¶"
}

/// JSON whose fields have the order of the documents.
pub fn json(value: &Value) -> String {
    let Value::Object(fields) = value else { return value.to_string() };
    let rank = |name: &str| FIELDS.iter().position(|field| *field == name).unwrap_or(FIELDS.len());
    let mut names: Vec<&String> = fields.keys().collect();
    names.sort_by_key(|name| rank(name));
    let pairs = names.iter().map(|name| format!("{}:{}", Value::from(name.as_str()), json(&fields[*name])));
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
}

/// Whether `got` has every field of `expected`. Further fields do no harm, and any `errormessage` is fine.
pub fn has(got: &Value, expected: &Value) -> bool {
    let (Value::Object(got), Value::Object(expected)) = (got, expected) else { return got == expected };
    expected.iter().all(|(name, expected)| match got.get(name) {
        Some(Value::String(_)) if name == "errormessage" => true,
        Some(got) => has(got, expected),
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_packet_is_written_in_the_order_of_the_documents() {
        let packet = json!({ "params": { "name": "a¶b" }, "key": 1, "method": "GET", "uri": "/hello" });
        let expected =
            "{\"uri\":\"/hello\",\"method\":\"GET\",\"key\":1,\"params\":{\"name\":\"a\\u00b6b\"}}¶";
        assert_eq!(text(&packet), expected);
    }

    #[test]
    fn further_fields_do_no_harm() {
        let expected = json!({ "key": 1, "errormessage": "success", "results": { "id": 1 } });
        assert!(has(&json!({ "key": 1, "errormessage": "", "results": { "id": 1, "a": 2 } }), &expected));
        assert!(!has(&json!({ "key": 2, "errormessage": "", "results": { "id": 1 } }), &expected));
        assert!(!has(&json!({ "key": 1, "results": { "id": 1 } }), &expected));
    }
}
